# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Floors of groups that follow the target of a phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..methods.budget import Budget, first_fitting
from ..score.normalise import by_rank
from ..segments import Segments


@dataclass(frozen=True)
class Floors:
    """Fewest channels that groups keep at a target.

    Args:
        target (dict[str, float]): Fractions by name of the cost; empty
            before a phase.
        counts (list[int]): Of every group.
    """

    target: dict[str, float]
    counts: list[int]
    _tensors: dict[torch.device, Tensor] = field(default_factory=dict)

    def on(self, device: torch.device) -> Tensor:
        """Returns the counts as a tensor, ``[groups]``.

        Args:
            device (torch.device): Where it lies.
        """
        # Kept: methods ask in every step, and a copy to a GPU takes long.
        if device not in self._tensors:
            self._tensors[device] = torch.tensor(self.counts).to(device)
        return self._tensors[device]


def uniform_counts(
    budget: Budget, parts: Segments, floors: Sequence[int]
) -> list[int]:
    """Returns what groups keep in the largest uniform network of a budget.

    Args:
        budget (Budget): Never exceeded, unless by the floors alone.
        parts (Segments): Where the channels of every group lie, on the CPU.
        floors (Sequence[int]): Fewest channels to keep, per group.

    Examples:
        >>> uniform_counts(
        ...     Budget([(torch.sum, 6.0)]), Segments([8, 4]), [1, 1]
        ... )
        [4, 2]
    """
    # The first channels of every group the last to go: their rank over its
    # size, so that a common cut keeps the same share of all.
    order = by_rank(-parts.place.double(), parts)
    mask = first_fitting(budget, order, parts.owner, floors)
    counts: list[int] = parts.sum(mask.double()).long().tolist()
    return counts
