# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Groups lose as much as their weights are sparse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..numbers import check_number
from ..score.group_scores import Layer, layer_context
from .base import register_method
from .channel_costs import size_of
from .fixed_order import rank_in_group
from .ranking import Ranking

if TYPE_CHECKING:
    from ..pruner import Pruner


@register_method('psap')
class PSAP(Ranking):
    r"""After PSAP (arXiv 2303.11881); the formula is ours.

    The paper takes the ratios of the layers from how sparse their weights
    are before every pruning step. Here group g loses the share
    :math:`r\,z_g` of its channels, those with the lowest scores, where
    :math:`z_g` is the share of the weights of its living channels that are
    near zero, :math:`|w| < \epsilon\, \overline{|w|}` with the mean over the
    layer, and r meets the target. Its protection of channels with large
    gradients is the option ``protect`` of every method.

    Args:
        steps (int, optional): As in :class:`Ranking`. Defaults to None: the
            shares are found anew after every step of the optimizer.
        near_zero (float): :math:`\epsilon`. Defaults to 0.1.

    Raises:
        PruningError: If an argument lies outside its range.
    """

    name = 'psap'

    def __init__(
        self, steps: int | None = None, near_zero: float = 0.1
    ) -> None:
        super().__init__(steps)
        check_number('method psap near_zero', near_zero, above=0)
        self.near_zero = near_zero

    def rank(self, pruner: Pruner) -> Tensor:
        """Returns ranks within groups over how sparse the group is.

        Args:
            pruner (Pruner): Of the network.
        """
        # The share rank of its group lies below a channel. It goes where
        # rank < r z_g, which is rank / z_g < r: one order for every r.
        # [groups] -> [channels] by the group of each channel.
        sparsity = size_of(self.sparsity(pruner))
        return rank_in_group(pruner) / sparsity[pruner.group]

    def sparsity(self, pruner: Pruner) -> Tensor:
        """Returns the share of weights near zero, ``[groups]``.

        Args:
            pruner (Pruner): Of the network.
        """
        living = pruner.mask.split(pruner.sizes)
        shares = []
        for group, lives in zip(pruner.groups, living, strict=True):
            # Weights near zero, and all of them: [2], summed over layers.
            counts = [self._count(layer, lives) for layer in group.layers]
            near, total = torch.stack(counts).sum(0)
            shares.append(near / total.clamp_min(1))
        return torch.stack(shares)

    def _count(self, layer: Layer, lives: Tensor) -> Tensor:
        """Weights of living channels: near zero, and in all; ``[2]``."""
        index = layer.channels.to(lives.device)
        size = layer_context(layer).filters.abs()
        # [group.size] -> [N, 1]: rows of the channels that live.
        rows = ((index >= 0) & lives[index.clamp_min(0)])[:, None]
        total = rows.sum() * size.shape[1]
        # Over living channels alone: [N, D] times [N, 1].
        mean = (size * rows).sum() / total.clamp_min(1)
        near = ((size < self.near_zero * mean) & rows).sum()
        return torch.stack([near, total])

    def by_group(self, pruner: Pruner) -> dict[str, Tensor]:
        """Shows how sparse the groups are."""
        return {'sparsity': self.sparsity(pruner)}
