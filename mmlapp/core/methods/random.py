# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A random rate for every group: how much do rates matter at all?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..numbers import check_number
from .base import register_method
from .fixed_order import FixedOrder, rank_in_group

if TYPE_CHECKING:
    from ..pruner import Pruner


@register_method('random')
class Random(FixedOrder):
    r"""Rates drawn at random around the uniform one.

    Group g loses the share :math:`r + u_g` of its channels, those with the
    lowest scores, with :math:`u_g` uniform in [-spread / 2, spread / 2] and
    the r that meets the target.

    Args:
        spread (float): Width of the distribution, a share of the channels.
            Defaults to 0.5.
        seed (int): Of its own random numbers, equal on all processes.
            Defaults to 0.

    Raises:
        PruningError: If ``spread`` is negative.
    """

    shift: Tensor

    def __init__(self, spread: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        check_number('method random spread', spread, least=0)
        check_number('method random seed', seed, whole=True)
        self.spread, self.seed = spread, seed

    def setup(self, pruner: Pruner) -> None:
        """Draws the rates, ``[groups]``."""
        # On the CPU, where a seed means the same for every device.
        generator = torch.Generator().manual_seed(self.seed)
        uniform = torch.rand(len(pruner.groups), generator=generator)
        self.register_buffer('shift', (uniform - 0.5) * self.spread)

    def ranking(self, pruner: Pruner) -> Tensor:
        """Ranks within a group, moved by what the group was drawn."""
        # Kept where rank - u_g > r for a common r, so that the share r + u_g
        # of group g goes. [groups] -> [channels] by the group of each channel.
        return rank_in_group(pruner) - self.shift[pruner.group]
