# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From what a method decides to the gate, and to the end of a phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..mask.masked import apply_masks
from ..methods.budget import Budget, first_fitting, snap
from ..numbers import check_per_channel
from ..progress import Phase
from .lasting import lasting
from .protection import lifted
from .ranks import holds_on_all
from .shrinking import check_hard, shrunk
from .signals import Signals
from .stability import ENDS, NEAR, Stability, StableEnd


class Decisions(Signals):
    """A pruner's signals with what is made of a method's decisions.

    Takes the arguments of :class:`PrunerState`.
    """

    # What is kept, of what a method decided.

    def _asked(self, call: str, found: Any) -> Tensor:
        """What a method returned, which may be somebody's own."""
        name = f'{call} of method {type(self.method).__name__}'
        return check_per_channel(name, found, len(self.gate))

    def kept_within(
        self, target: Mapping[str, float], order: Tensor
    ) -> Tensor:
        """Returns what the exact budget keeps of an order of all channels.

        Args:
            target (Mapping[str, float]): Fractions of the dense network's
                costs, by name.
            order (Tensor): The larger, the longer it is kept;
                ``[channels]``.

        Returns:
            Tensor: Bool mask, ``[channels]``.
        """
        return snap(
            self.budget(target),
            order,
            self.group,
            self.floors,
            self.divisors,
            # To a point below the target, a hundredth of the dense network.
            1 - 0.01 / max(target.values()),
        )

    def _spared(self, decided: Tensor) -> Tensor:
        """What a method decided, with protected ones for those ranked last."""
        if self.protect == 0:
            return decided
        check_hard('protect', self.protect, decided)
        spared = self.protected
        if ((decided != 0) | ~spared).all():
            return decided
        # First what is protected, then what the method keeps, then the rest:
        # cut where the cost is that of what the method keeps.
        order = lifted(self.method.ranking(self._whole), decided == 1, spared)
        kept, group = decided.cpu(), self.host_parts.owner
        limits = [
            (cost := self.host_cost(name), float(cost(kept)))
            for name in self.progress.target
        ]
        mask = first_fitting(Budget(limits), order, group, self.floors)
        return mask.to(decided.dtype)

    def _shrunk(self, decided: Tensor) -> Tensor:
        """The gate after a step that decided, ``[channels]``."""
        if self.shrinking.at_once:
            return decided
        check_hard('shrink', self.shrink, decided)
        return shrunk(self.gate, decided, self.shrinking, self.progress)

    # Where masked parameters read it.

    def relax(self, training: bool) -> None:
        """Puts in place of the gate what the method wants in a forward.

        Args:
            training (bool): Whether in training mode.
        """
        relaxed = None
        wanted = training or self.method.relaxes_evaluation
        if wanted and self.phase == Phase.PRUNING:
            relaxed = self.method.relaxed(self._whole)
        if relaxed is not None:
            # Adds nothing, but who asks for the gradient by the gate gets it.
            relaxed = lasting(relaxed) + (self.gate - self.gate.detach())
        self.stand_in.value = relaxed

    @torch.no_grad()
    def multiply(
        self, factor: Tensor, optimizer: Optimizer | None = None
    ) -> None:
        """Multiplies all masked parameters as their masks would, for good.

        Args:
            factor (Tensor): In place of the gate, ``[channels]``.
            optimizer (Optimizer, optional): What it keeps of them in their
                shape, such as momentum, is multiplied as well, like their
                gradients. Defaults to None.
        """
        self.stand_in.value = factor
        states = {} if optimizer is None else optimizer.state
        # Each once, however many layers share it.
        for module, name in self.masked:
            stored = module._parameters[name]
            assert stored is not None
            kept = states.get(stored, {}).values()
            for value in (stored, stored.grad, *kept):
                if isinstance(value, Tensor) and value.shape == stored.shape:
                    value.copy_(apply_masks(module, name, value))
        self.stand_in.value = None

    @torch.no_grad()
    def _set_gate(self, gate: Tensor) -> None:
        # Into the buffer, which masks, state dicts and checksums read.
        self.gate.copy_(gate)
        self.stand_in.value = None

    # When a phase ends before its last step.

    def _stability(self, end: Any, steps: int) -> Stability | None:
        if end is None:
            return None
        found: StableEnd = ENDS.build(end)
        found.check(steps)
        return Stability.begin(found, len(self.gate))

    def _ends_early(self) -> bool:
        """Whether the kept channels have settled, at the end of an epoch."""
        known, progress = self.stability, self.progress
        if known is None or progress.done % known.end.epoch:
            return False
        mask = self.mask.cpu()
        self.stability = known.noted(mask)
        used = self.budget(progress.target).used(mask.double())
        met = used <= NEAR and torch.equal(self.gate, self.decided)
        settled = met and self.stability.is_stable(self.sizes)
        # All processes end at one step, or none does.
        return holds_on_all(settled, self.gate.device)
