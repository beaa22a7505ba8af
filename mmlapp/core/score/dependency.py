# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores from all weights that depend on a channel."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Score, ScoreContext, register_score


@register_score('cpmc')
class CPMC(Score):
    r"""Filter and matching kernels (after CPMC, 2011.03240; formula ours).

    The mean magnitude of the weights that emit a channel plus that of the
    weights that read it, :math:`\overline{|w_n|} + \overline{|v_n|}`. The
    paper's other criteria are a term of the cost: ``method=dict(
    type='ranking', steps=1, cost='divide_all')``.
    """

    reads = True

    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns the sum of both means."""
        assert context.channels is not None
        index = context.channels.clamp_min(0)
        read = _mean_read(context, int(index.max()) + 1)[index]
        read = torch.where(context.channels >= 0, read, 0)
        return context.filters.abs().mean(dim=1) + read


def _mean_read(context: ScoreContext, channels: int) -> Tensor:
    """Mean magnitude of the weights that read each channel, ``[channels]``."""
    total = context.filters.new_zeros(channels)
    count = total.clone()
    for reader in context.readers:
        # [M, D]: a row belongs to a channel of the group, or to none. Others
        # of the group may be emitted by another layer.
        known = (reader.channels >= 0) & (reader.channels < channels)
        rows, index = reader.weights[known].abs(), reader.channels[known]
        total = total.index_add(0, index, rows.sum(dim=1))
        size = torch.full_like(rows[:, 0], rows.shape[1])
        count = count.index_add(0, index, size)
    return total / count.clamp_min(1)
