# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores from all weights that depend on a channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import ChannelWeights, Score, ScoreContext, register_score


@register_score('cpmc')
class CPMC(Score):
    r"""Filter and matching kernels (after CPMC, 2011.03240; formula ours).

    The mean magnitude of the weights that emit a channel plus that of the
    weights that read it, :math:`\overline{|w_n|} + \overline{|v_n|}`. The
    paper's other criteria are a term of the cost: ``method=dict(
    type='ranking', steps=1, cost='divide_all')``.
    """

    all_weights = True

    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns the sum of both means."""
        total, count = summed(context.readers, context, power=1)
        # Means, so that a layer with many inputs does not outweigh its reader.
        return context.filters.abs().mean(dim=1) + total / count.clamp_min(1)


@register_score('group_norm')
class GroupNorm(Score):
    r"""Norm of everything that goes with a channel (OCSPruner, 2501.13439).

    :math:`\sqrt{\sum_d w_{nd}^2 + \gamma_n^2 + \sum_d v_{nd}^2}` over all
    layers that emit the channel, the scales of the norms behind them, and
    all layers that read it.
    """

    all_weights = True

    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns the norm."""
        weights = [*context.emitters, *context.readers]
        return summed(weights, context, power=2)[0].sqrt()


def summed(
    weights: Sequence[ChannelWeights], context: ScoreContext, power: int
) -> tuple[Tensor, Tensor]:
    r"""Sums :math:`|w|^p` over the weights of each channel, and counts them.

    Args:
        weights (Sequence[ChannelWeights]): What to sum over.
        context (ScoreContext): The layer whose channels are asked about.
        power (int): The exponent p.

    Returns:
        tuple[Tensor, Tensor]: Sum and number, each ``[N]``; zero where a row
        belongs to no channel.
    """
    assert context.channels is not None
    if not weights:  # what reads them has none
        nothing = context.filters.new_zeros(len(context.filters))
        return nothing, nothing
    # [M, D]: a row belongs to a channel of the group, or to none. All rows at
    # once, as a GPU likes it, with their sums in one column.
    sums = torch.cat([p.weights.abs().pow(power).sum(dim=1) for p in weights])
    width = [torch.full_like(p.channels, p.weights.shape[1]) for p in weights]
    rows = torch.stack([sums.double(), torch.cat(width).double()], dim=1)
    size = context.size or len(context.channels)
    owner = _or_last(torch.cat([p.channels for p in weights]), size)
    # Those of no channel meet in the last one, which is zero again after it.
    # In float64: in any order of the addends the same float32. [channels, 2]
    total = rows.new_zeros(size + 1, 2).index_add_(0, owner, rows)
    total[size] = 0
    found = total[_or_last(context.channels, size)].to(context.filters.dtype)
    return found[:, 0], found[:, 1]


def _or_last(channels: Tensor, size: int) -> Tensor:
    """Channels, with one behind all of them in the place of none."""
    return torch.where(channels < 0, size, channels)
