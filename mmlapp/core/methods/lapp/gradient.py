# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""LAPP's thresholds learn like weights: both losses by autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import PruningError
from ...numbers import check_number
from ..schedule import penalty
from .thresholds import HardMask
from .update import UPDATES, Update

if TYPE_CHECKING:
    from ...pruner import Pruner
    from .method import LAPP

PREFIX = 'optimizer_'


@UPDATES.register('gradient')
class Gradient(Update):
    r"""The literal reading of the paper: :math:`L_{task} + \lambda L_{cost}`.

    Both losses reach the thresholds by autograd through the surrogate of
    the mask, and an optimizer of their own steps them. :math:`L_{cost}` is
    Huber's function of the log ratio of the cost to its target, returned by
    ``pruner.loss()``, which **must be added to the task loss**; a step
    without it is an error.

    Args:
        rate (float): Learning rate times the steps of the phase. Defaults
            to 5.
        cost_weight (float): :math:`\lambda`, balance of the two losses.
            Defaults to 1.
        optimizer (str): Class of ``torch.optim``. Defaults to ``SGD``.
        **settings (Any): More arguments of the optimizer, such as
            ``momentum``.

    Raises:
        PruningError: If a number is not positive, or the optimizer unknown.
    """

    moved: Tensor
    adds_loss = True

    def __init__(
        self,
        rate: float = 5.0,
        cost_weight: float = 1.0,
        optimizer: str = 'SGD',
        **settings: Any,
    ) -> None:
        super().__init__()
        check_number('update gradient rate', rate, above=0)
        check_number('update gradient cost_weight', cost_weight, above=0)
        kind = getattr(torch.optim, str(optimizer), None)
        if not isinstance(kind, type):
            raise PruningError(
                f'update gradient optimizer={optimizer!r}: torch.optim has '
                'no such class'
            )
        self.rate, self.cost_weight = rate, cost_weight
        self.kind: Any = kind
        self.settings = settings

    def setup(self, lapp: LAPP) -> None:
        """Thresholds become a leaf; the optimizer's state, buffers."""
        lapp.threshold.requires_grad_()
        state = self._first_state(lapp.threshold)
        for key, value in state.items():
            if isinstance(value, Tensor):
                name = f'{PREFIX}{key}'
                self.register_buffer(name, torch.zeros_like(value))
        self.register_buffer('moved', torch.tensor(False))

    def begin(self) -> None:
        """Lets the optimizer start anew."""
        self.moved.fill_(False)

    def loss(self, lapp: LAPP, pruner: Pruner) -> Tensor:
        """Returns the penalty of the cost that misses its target most."""
        cost = pruner.binding_cost()
        ratio = lapp.learned_ratio(pruner, cost, lapp.threshold)
        target = pruner.targets()[cost]
        return self.cost_weight * penalty(ratio, target).float()

    def move(
        self, lapp: LAPP, pruner: Pruner, bounds: tuple[Tensor, Tensor]
    ) -> None:
        """Adds both gradients and lets the optimizer step.

        Raises:
            PruningError: If the loss of the pruner was not added.
        """
        if lapp.threshold.grad is None:
            raise PruningError(
                "update='gradient': the thresholds got no gradient of the "
                'cost. Add pruner.loss() to the task loss'
            )
        # A scaler multiplied the whole loss; the task gradient that is added
        # was divided by the same factor in the pruner.
        constraint = lapp.threshold.grad / pruner.loss_scale
        total = constraint + self._task_gradient(lapp, pruner)
        # Who was not heard stays, whatever the constraint wants.
        lapp.threshold.grad = torch.where(lapp.heard, total, 0)
        optimizer = self._optimizer(lapp.threshold, pruner.progress.steps)
        # The state lives in buffers, where it is saved and compared. The
        # first one is the optimizer's own, which need not be zero.
        saved = self._saved_state()
        if saved and self.moved:
            optimizer.state[lapp.threshold].update(saved)
        optimizer.step()
        self.moved.fill_(True)
        for key, value in optimizer.state[lapp.threshold].items():
            if isinstance(value, Tensor):
                self.get_buffer(f'{PREFIX}{key}').copy_(value)

    def _saved_state(self) -> dict[str, Tensor]:
        """What the buffers hold, under the names of the optimizer."""
        return {
            name.removeprefix(PREFIX): value
            for name, value in self.named_buffers()
            if name.startswith(PREFIX)
        }

    @torch.enable_grad()
    def _task_gradient(self, lapp: LAPP, pruner: Pruner) -> Tensor:
        """Gradient of the task loss by the thresholds, ``[groups]``.

        The gate has the gradient p of the task loss by each channel; the
        rest of the chain is that of the mask by its threshold.
        """
        mask = HardMask.apply(
            lapp.threshold, pruner.mask, lapp.slope, pruner.parts
        )
        # -sum_i h_i p_i over the channels of a group, [channels] -> [groups].
        (found,) = torch.autograd.grad(
            mask, lapp.threshold, grad_outputs=pruner.gradient
        )
        return found

    def _optimizer(self, threshold: Tensor, steps: int) -> Any:
        # Plain SGD travels rate / S * (sum of S gradients): the rate times
        # their mean, however long the phase is.
        return self.kind([threshold], lr=self.rate / steps, **self.settings)

    def _first_state(self, threshold: Tensor) -> dict[str, Any]:
        """What the optimizer keeps, seen on a step of a copy."""
        copied = threshold.detach().clone().requires_grad_()
        copied.grad = torch.zeros_like(copied)
        try:
            optimizer = self._optimizer(copied, 1)
            optimizer.step()
        # Whatever an optimizer refuses, or asks of who steps it.
        except Exception as error:
            raise PruningError(
                f'update gradient optimizer={self.kind.__name__!r} with '
                f'{self.settings}: {error}'
            ) from error
        found: dict[str, Any] = dict(optimizer.state[copied])
        return found
