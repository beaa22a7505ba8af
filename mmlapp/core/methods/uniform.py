# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The same rate for every group: the control of every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .base import register_method
from .fixed_order import FixedOrder, rank_in_group

if TYPE_CHECKING:
    from ..pruner import Pruner


@register_method('uniform')
class Uniform(FixedOrder):
    """Keeps the same share of every group, its highest scores.

    The share falls with the schedule of the target; with a phase of one step
    it is there at once.

    Examples:
        >>> import torch
        >>> from mmlapp.core import attach
        >>> net = torch.nn.Sequential(
        ...     *(torch.nn.Conv2d(20, 20, 1) for _ in range(3))
        ... )
        >>> pruner = attach(net, torch.rand(1, 20, 4, 4), method='uniform')
        >>> pruner.begin({'flops': 0.5}, steps=1)
        >>> pruner.step()
        >>> pruner.keep_ratios()
        {'0': 0.6, '1': 0.55}
    """

    def ranking(self, pruner: Pruner) -> Tensor:
        """Ranks channels within their own group alone."""
        return rank_in_group(pruner)
