# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Notices a part of the loss that nobody adds to the rest."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ..errors import PruningError


class AddedLoss:
    """Whether a backward has run through a part of the loss.

    Args:
        name (str): Of the method, for the error text.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.reached = False

    def begin(self, weights: Iterable[Tensor]) -> None:
        """Begins to wait, in a new phase.

        Args:
            weights (Iterable[Tensor]): Those that the part reaches.

        Raises:
            PruningError: If none of them can learn.
        """
        if not any(weight.requires_grad for weight in weights):
            raise PruningError(
                f'method {self.name}: none of the weights that its part of '
                'the loss is for requires a gradient. Unfreeze some of them, '
                "or choose 'ranking' or another method"
            )
        self.reached = False

    def watch(self, loss: Tensor) -> Tensor:
        """Returns the loss, and notes when its gradient comes.

        Args:
            loss (Tensor): Scalar.
        """
        # Without a graph there is nothing to come.
        if loss.requires_grad:
            loss.register_hook(self._note)
        return loss

    def _note(self, gradient: Tensor) -> None:
        self.reached = True

    def check(self) -> None:
        """Begins to wait anew.

        Raises:
            PruningError: If no gradient came since the last time.
        """
        if not self.reached:
            raise PruningError(
                f'method {self.name}: its part of the loss reached no weight '
                'in this step. Add pruner.loss() to the task loss and call '
                'backward() on the sum before optimizer.step(); an optimizer '
                'that does not follow the gradient of the loss cannot be used '
                'with it'
            )
        # Anew for each step: one that was added once proves nothing later.
        self.reached = False
