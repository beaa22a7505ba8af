# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores of different layers made comparable.

Each takes the scores of all layers, one after the other, and their segments.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..choices import Choices
from ..segments import Segments, segments

# [scores], and where each layer has its own.
Normalisation = Callable[[Tensor, Segments], Tensor]
NORMALISATIONS: Choices[Normalisation] = Choices('normalisation')


@NORMALISATIONS.register('none')
def as_they_are(scores: Tensor, parts: Segments) -> Tensor:
    """Scores that mean the same in every layer, such as a rise of a loss."""
    return scores


@NORMALISATIONS.register('mean')
def by_mean(scores: Tensor, parts: Segments) -> Tensor:
    """Scores divided by their mean, so that layers become comparable."""
    # [scores] -> [layers]; a layer of zeros stays one.
    mean = parts.mean(scores).clamp_min(torch.finfo(scores.dtype).tiny)
    return scores / mean[parts.owner]


@NORMALISATIONS.register('std')
def by_std(scores: Tensor, parts: Segments) -> Tensor:
    """Scores in standard deviations from their mean."""
    # s_i - mean, over the root of the mean square of that: [scores].
    centred = scores - parts.mean(scores)[parts.owner]
    spread = parts.mean(centred.square()).sqrt().clamp_min(1e-12)
    return centred / spread[parts.owner]


@NORMALISATIONS.register('rank')
def by_rank(scores: Tensor, parts: Segments) -> Tensor:
    """Rank over the number of channels, in (0, 1).

    The threshold is then the pruning ratio of its group, and a small step
    never removes many channels whose scores lie close together.
    """
    # 0.3 0.1 0.2 -> ranks 2 0 1 -> 5/6 1/6 1/2.
    ranks = parts.ranks(scores).to(scores.dtype)
    return (ranks + 0.5) / parts.count[parts.owner]


def normalised(normalise: Normalisation, scores: Tensor) -> Tensor:
    """Normalises the scores of a single layer.

    Args:
        normalise (Callable): One of the above.
        scores (Tensor): Shape ``[N]``.
    """
    return normalise(scores, segments([len(scores)], scores.device))
