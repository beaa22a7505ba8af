# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Importance scores: how much each channel of a layer matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..choices import Table


@dataclass(frozen=True)
class LayerChannels:
    """What a score may look at: one layer's output channels, detached.

    Args:
        filters (Tensor): Weights that emit each channel, shape ``[N, D]``,
            those of a filter in the order in which they lie in memory.
        gradient (Tensor, optional): Gradient of the task loss with respect
            to ``filters``, same shape; None before the first backward.
        scale (Tensor, optional): Scale of the norm that follows the layer,
            shape ``[N]``; None if no affine norm does.
    """

    filters: Tensor
    gradient: Tensor | None = None
    scale: Tensor | None = None


Score = Callable[[LayerChannels], Tensor]
SCORES: Table[Score] = Table('score')


def register_score(name: str) -> Callable[[Score], Score]:
    """Adds an importance score under a name that configs can use.

    Args:
        name (str): The name.

    Examples:
        >>> @register_score('doc_max')
        ... def max_score(channels):
        ...     return channels.filters.abs().amax(dim=1)
    """
    return SCORES.register(name)


@register_score('l1')
def l1(channels: LayerChannels) -> Tensor:
    r"""L1 norm of each filter, ``[N]``: :math:`\sum_d |w_{nd}|`."""
    return channels.filters.abs().sum(dim=1)


@register_score('l2')
def l2(channels: LayerChannels) -> Tensor:
    r"""L2 norm of each filter, ``[N]``: :math:`\sqrt{\sum_d w_{nd}^2}`."""
    norms: Tensor = torch.linalg.vector_norm(channels.filters, dim=1)
    return norms


@register_score('bn_scale')
def bn_scale(channels: LayerChannels) -> Tensor:
    """Magnitude of the norm's scale (Network Slimming, arXiv 1708.06519).

    A layer without an affine norm falls back to the L2 norm.
    """
    if channels.scale is None:
        return l2(channels)
    return channels.scale.abs()


@register_score('fpgm')
def fpgm(channels: LayerChannels) -> Tensor:
    r"""Distance to all other filters (FPGM, arXiv 1811.00250).

    :math:`\sum_m \lVert w_n - w_m \rVert_2`: small near the geometric
    median, where the others can stand in for a filter.
    """
    return torch.cdist(channels.filters, channels.filters).sum(dim=1)


@register_score('taylor')
def taylor(channels: LayerChannels) -> Tensor:
    r"""First-order Taylor expansion of the loss (arXiv 1906.10771).

    :math:`(\sum_d g_{nd} w_{nd})^2`. Before the first backward, when no
    gradient exists, every channel scores alike.
    """
    if channels.gradient is None:
        return torch.ones_like(channels.filters[:, 0])
    return (channels.filters * channels.gradient).sum(dim=1).square()


NORMALISATIONS: Table[Callable[[Tensor], Tensor]] = Table('normalisation')


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
    order = scores.argsort(stable=True).argsort(stable=True)
    return (order.to(scores.dtype) + 0.5) / scores.numel()
