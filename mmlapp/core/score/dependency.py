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
    index = context.channels.clamp_min(0)
    # [channels], in float64: in any order of the addends the same float32.
    total = index.new_zeros(int(index.max()) + 1, dtype=torch.float64)
    count = total.clone()
    for part in weights:
        # [M, D]: a row belongs to a channel of the group, or to none. Others
        # of the group may be emitted by another layer.
        known = (part.channels >= 0) & (part.channels < len(total))
        rows, owner = part.weights[known].abs(), part.channels[known]
        sums = rows.pow(power).sum(dim=1).double()
        total = total.index_add(0, owner, sums)
        count = count.index_add(0, owner, torch.full_like(sums, rows.shape[1]))
    owned = context.channels >= 0
    dtype = context.filters.dtype
    return (
        torch.where(owned, total[index], 0).to(dtype),
        torch.where(owned, count[index], 0).to(dtype),
    )
