# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores from the weights that emit a channel, and from the norm behind."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import ScoreContext, register_score


@register_score('l1')
def l1(channels: ScoreContext) -> Tensor:
    r"""L1 norm of each filter, ``[N]``: :math:`\sum_d |w_{nd}|`."""
    return channels.filters.abs().sum(dim=1)


@register_score('l2')
def l2(channels: ScoreContext) -> Tensor:
    r"""L2 norm of each filter, ``[N]``: :math:`\sqrt{\sum_d w_{nd}^2}`."""
    norms: Tensor = torch.linalg.vector_norm(channels.filters, dim=1)
    return norms


@register_score('bn_scale')
def bn_scale(channels: ScoreContext) -> Tensor:
    """Magnitude of the norm's scale (Network Slimming, arXiv 1708.06519).

    A layer without an affine norm falls back to the L2 norm.
    """
    if channels.scale is None:
        return l2(channels)
    # A negative scale turns the map around and is as strong.
    return channels.scale.abs()


@register_score('fpgm')
def fpgm(channels: ScoreContext) -> Tensor:
    r"""Distance to all other filters (FPGM, arXiv 1811.00250).

    :math:`\sum_m \lVert w_n - w_m \rVert_2`: small near the geometric
    median, where the others can stand in for a filter.
    """
    filters = channels.filters
    # [N, D] against itself: [N, N] distances, summed over the others.
    return torch.cdist(filters, filters).sum(dim=1)


# Below it an output counts as none, and what keeps a scale from zero.
NOTHING, TINY = 0.05, 1e-8


@register_score('operation_aware')
def operation_aware(channels: ScoreContext) -> Tensor:
    r"""How likely a channel passes the ReLU (SCP, arXiv 2007.03938).

    :math:`1 - \Phi`, :math:`\Phi = \frac12 \big(1 + \mathrm{erf}
    \frac{\tau - \beta}{(|\gamma| + 10^{-8}) \sqrt 2}\big)` with
    :math:`\tau = 0.05`: behind a norm with scale :math:`\gamma` and shift
    :math:`\beta` a channel is taken to be normally distributed. The score of
    the paper alone, without its sampled masks. It means something where a
    ReLU follows the norm; a layer without a norm falls back to the L2 norm.
    """
    if channels.scale is None:
        return l2(channels)
    shift = 0 if channels.shift is None else channels.shift
    # In standard deviations from the mean, over sqrt(2): [N]. 1 - Phi =
    # (1 + erf(-x)) / 2 = erfc(x) / 2, exact where Phi is near one.
    x = (NOTHING - shift) / (channels.scale.abs() + TINY)
    return torch.erfc(x / math.sqrt(2)) / 2
