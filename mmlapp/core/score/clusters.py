# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels that respond alike, gathered into clusters."""

from __future__ import annotations

import torch
from torch import Tensor

# Passes over the points until the clusters are taken as they are.
PASSES = 50


def standardised(responses: Tensor) -> Tensor:
    """Points whose squared distance is that of 2 - 2 correlation.

    Args:
        responses (Tensor): Of every channel to every image,
            ``[channels, images]``.

    Returns:
        Tensor: Each row without its mean and of length one; zero if it is
        the same everywhere.
    """
    # |a / |a| - b / |b||^2 = 2 - 2 <a, b> / (|a| |b|), of centred rows the
    # correlation.
    rows = responses - responses.mean(dim=1, keepdim=True)
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # Of a constant row rounding leaves something, which is no direction.
    size = responses.abs().amax(dim=1, keepdim=True)
    nothing = length <= 1e-6 * size * responses.shape[1] ** 0.5
    return torch.where(nothing, 0, rows / length.clamp_min(1e-30))


def k_means(points: Tensor, count: int, first: int) -> Tensor:
    """Gathers points into clusters around their means (Lloyd, 1982).

    It begins with points as far apart as possible, so that nothing is drawn
    and all processes find the same.

    Args:
        points (Tensor): Shape ``[points, dimensions]``.
        count (int): Clusters, or as many as there are different points.
        first (int): The point to begin with.

    Returns:
        Tensor: Number of the cluster of every point, ``[points]``.

    Examples:
        >>> k_means(torch.tensor([[0.0], [5.0], [0.1], [5.2]]), 2, first=0)
        tensor([0, 1, 0, 1])
    """
    centres = _far_apart(points, count, first)
    owner = torch.cdist(points, centres).argmin(dim=1)
    for _ in range(PASSES):
        # Mean of the points of each cluster: sum over count, [clusters, D].
        size = owner.bincount(minlength=len(centres))[:, None]
        total = torch.zeros_like(centres).index_add(0, owner, points)
        # A cluster that lost all its points stays where it was.
        centres = torch.where(size > 0, total / size.clamp_min(1), centres)
        former, owner = owner, torch.cdist(points, centres).argmin(dim=1)
        if torch.equal(former, owner):
            break
    return owner


def _far_apart(points: Tensor, count: int, first: int) -> Tensor:
    """Points of which each is the farthest from those before."""
    chosen = [first]
    nearest = torch.full_like(points[:, 0], torch.inf)
    while len(chosen) < count:
        last = torch.linalg.vector_norm(points - points[chosen[-1]], dim=1)
        # Distance of every point to the nearest of those chosen, [points].
        nearest = torch.minimum(nearest, last)
        # There are no more different points; NaN ends it as well.
        if not nearest.amax() > 0:
            break
        chosen.append(int(nearest.argmax()))
    return points[chosen]
