# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Methods that keep as much of a fixed order as the schedule allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..score.normalise import by_rank
from .base import Method
from .budget import first_fitting

if TYPE_CHECKING:
    from ..pruner import Pruner


class FixedOrder(Method):
    """Keeps the first channels of its ranking that fit the schedule.

    A subclass says the order in ``ranking``; nothing is learned.
    """

    def setup(self, pruner: Pruner) -> None:
        """Needs nothing."""

    def wanted(self, pruner: Pruner) -> dict[str, float]:
        """Returns what the network may cost after this step.

        Args:
            pruner (Pruner): Of the network.
        """
        return pruner.targets()

    def step(self, pruner: Pruner) -> Tensor:
        """Cuts the order where the target of this step is reached."""
        # The whole order anew in each step: what went may come back.
        mask = first_fitting(
            pruner.budget(self.wanted(pruner)),
            self.ranking(pruner),
            pruner.host_parts.owner,
            pruner.floors,
        )
        return mask.to(pruner.gate.dtype)


def rank_in_group(pruner: Pruner) -> Tensor:
    """Rank of every score in its group over the group's size, in (0, 1).

    Args:
        pruner (Pruner): Of the network.

    Returns:
        Tensor: Shape ``[channels]``; the best channel of a group of N has
        :math:`1 - 1/2N`.
    """
    return by_rank(pruner.scores, pruner.parts)
