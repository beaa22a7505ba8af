# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers that compare scores with each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..pruner.stability import jaccard


def average_ranks(values: Tensor) -> Tensor:
    """Ranks from 1 on; equal values share the mean of their ranks.

    Args:
        values (Tensor): Shape ``[N]``.

    Examples:
        >>> average_ranks(torch.tensor([5.0, 2.0, 5.0, 9.0])).tolist()
        [2.5, 1.0, 2.5, 4.0]
    """
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    # 1 2 5 of counts 1 2 1 end at 1, 3, 4: ranks 1, (2 + 3) / 2, 4.
    last = count.cumsum(0).double()
    ranks: Tensor = last - (count - 1) / 2
    return ranks[place]


def spearman(scores: Tensor) -> Tensor:
    """Correlation of the ranks of all pairs of scores (Spearman, 1904).

    Args:
        scores (Tensor): Shape ``[scores, channels]``.

    Returns:
        Tensor: Float64, ``[scores, scores]``; NaN where a score is the same
        for all channels and so has no ranks.

    Examples:
        >>> scores = torch.tensor([[1.0, 2.0, 3.0], [9.0, 8.0, 1.0]])
        >>> spearman(scores).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    ranks = torch.stack([average_ranks(row) for row in scores])
    # r_ab = <a, b> / (|a| |b|) of centred ranks, all pairs at once: a product
    # [S, N] by [N, S].
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    product = centred @ centred.T
    square = product.diagonal()
    # [S, S]; 0 / 0 is the NaN of one without ranks.
    return (product / square.outer(square).sqrt()).clamp(-1, 1)


def variation(scores: Tensor) -> Tensor:
    r"""Coefficient of variation :math:`\sigma / |\mu|` of every score.

    Args:
        scores (Tensor): Shape ``[scores, channels]``.

    Returns:
        Tensor: Float64, ``[scores]``; not finite where the mean is zero.

    Examples:
        >>> variation(torch.tensor([[1.0, 3.0], [2.0, 2.0]])).tolist()
        [0.5, 0.0]
    """
    scores = scores.double()
    mean = scores.mean(dim=1)
    # Of all channels, not of a sample of them: divided by N.
    return scores.std(dim=1, correction=0) / mean.abs()


def overlaps(kept: Tensor, sizes: Sequence[int]) -> Tensor:
    """Jaccard index of all pairs of networks, mean over their groups.

    Args:
        kept (Tensor): Kept channels, bool ``[networks, channels]``.
        sizes (Sequence[int]): Channels of every group.

    Returns:
        Tensor: Float64, ``[networks, networks]``.
    """
    parts = list(sizes)
    rows = [[jaccard(a, b, parts) for b in kept] for a in kept]
    return torch.tensor(rows, dtype=torch.float64)
