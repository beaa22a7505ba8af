# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of a rule that moves LAPP's thresholds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...choices import Choices

if TYPE_CHECKING:
    from ...pruner import Pruner
    from .method import LAPP


class Update(nn.Module, ABC):
    """Moves thresholds by the task loss and by the constraint.

    Attributes:
        adds_loss (bool): Whether :meth:`loss` must be part of the loss.
    """

    adds_loss = False

    def setup(self, lapp: LAPP) -> None:
        """Makes buffers for its state.

        Args:
            lapp (LAPP): The method, whose thresholds are there.
        """

    def begin(self) -> None:
        """Forgets what a former phase left in the state."""

    def loss(self, lapp: LAPP, pruner: Pruner) -> Tensor:
        """Returns what is added to the task loss.

        Args:
            lapp (LAPP): The method.
            pruner (Pruner): Of the network.
        """
        return torch.zeros((), device=lapp.threshold.device)

    @abstractmethod
    def move(
        self, lapp: LAPP, pruner: Pruner, bounds: tuple[Tensor, Tensor]
    ) -> None:
        """Changes the thresholds in place.

        Args:
            lapp (LAPP): The method.
            pruner (Pruner): Of the network; ``gradient`` is there.
            bounds (tuple[Tensor, Tensor]): Lowest and highest thresholds,
                each ``[groups]``; the method sees to them in any case.
        """


UPDATES: Choices[type[Update]] = Choices('update', Update)
