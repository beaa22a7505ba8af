# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where the pruning of a network stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor


class Phase(IntEnum):
    """Before, in and after the pruning phase.

    In the order in which a run passes them; stored as numbers in the state
    dict of the pruner, so that names may change and values must not.
    """

    DENSE = 0
    PRUNING = 1
    FINISHED = 2


@dataclass(frozen=True)
class Progress:
    """Phase, steps and targets; plain numbers, read several times a step.

    Args:
        phase (Phase): Defaults to ``DENSE``.
        done (int): Optimizer steps of the phase so far. Defaults to 0.
        steps (int): Length of the phase. Defaults to 0.
        target (Mapping[str, float]): Asked fraction of each cost of the
            dense network, by name. Defaults to none.

    Examples:
        >>> progress = Progress(Phase.PRUNING, 7, 20, {'flops': 0.5})
        >>> state = progress.to_tensor(['flops', 'parameters'])
        >>> Progress.from_tensor(state, ['flops', 'parameters']) == progress
        True
    """

    phase: Phase = Phase.DENSE
    done: int = 0
    steps: int = 0
    target: Mapping[str, float] = field(default_factory=dict)

    def to_tensor(self, costs: Sequence[str]) -> Tensor:
        """Returns what a state dict can hold, float64 ``[3 + costs]``.

        Args:
            costs (Sequence[str]): All costs of the network, in order; one
                without a target is 0.
        """
        targets = [self.target.get(name, 0.0) for name in costs]
        return torch.tensor(
            [self.phase, self.done, self.steps, *targets], dtype=torch.float64
        )

    @classmethod
    def from_tensor(cls, state: Tensor, costs: Sequence[str]) -> Progress:
        """Reads what :meth:`to_tensor` made.

        Args:
            state (Tensor): Shape ``[3 + costs]``.
            costs (Sequence[str]): All costs of the network, in order.
        """
        phase, done, steps, *targets = state.tolist()
        return cls(
            Phase(int(phase)),
            int(done),
            int(steps),
            {
                name: value
                for name, value in zip(costs, targets, strict=True)
                # 0 is no target: those lie in (0, 1].
                if value > 0
            },
        )
