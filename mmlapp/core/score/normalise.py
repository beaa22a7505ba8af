# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores of different layers made comparable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..choices import Choices

NORMALISATIONS: Choices[Callable[[Tensor], Tensor]] = Choices('normalisation')


@NORMALISATIONS.register('none')
def as_they_are(scores: Tensor) -> Tensor:
    """Scores that mean the same in every layer, such as a rise of a loss."""
    return scores


@NORMALISATIONS.register('mean')
def by_mean(scores: Tensor) -> Tensor:
    """Scores divided by their mean, so that layers become comparable."""
    return scores / scores.mean().clamp_min(torch.finfo(scores.dtype).tiny)


@NORMALISATIONS.register('std')
def by_std(scores: Tensor) -> Tensor:
    """Scores in standard deviations from their mean."""
    spread = scores.std(unbiased=False)
    return (scores - scores.mean()) / spread.clamp_min(1e-12)


@NORMALISATIONS.register('rank')
def by_rank(scores: Tensor) -> Tensor:
    """Rank over the number of channels, in (0, 1).

    The threshold is then the pruning ratio of its group, and a small step
    never removes many channels whose scores lie close together.
    """
    # The first sort gives the index at every rank, the second the rank of
    # every index.
    # 0.3 0.1 0.2 -> sorted index 1 2 0 -> ranks 2 0 1 -> 5/6 1/6 1/2.
    order = scores.argsort(stable=True).argsort(stable=True)
    return (order.to(scores.dtype) + 0.5) / scores.numel()
