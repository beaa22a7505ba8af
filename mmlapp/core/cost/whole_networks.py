# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From the parts of a network to the time that the whole of it takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .grid import isotonic
from .latency_table import TimedNetwork
from .multilinear import doubles


def shares(networks: Sequence[TimedNetwork]) -> tuple[float, float, float]:
    r"""Fits whole networks by their layers, their elements and a constant.

    The least squares of :math:`s\,l_k + e\,e_k + c - t_k / t_1` over all
    networks k with s, e, c from 0 on and a sum of 1, so that the dense
    network comes out exactly.

    Args:
        networks (Sequence[TimedNetwork]): The dense one first. Alone it
            gives all to the layers.

    Returns:
        tuple[float, float, float]: s, e and c.

    Examples:
        >>> one = TimedNetwork(layers=1, elements=1, median=2, p90=2)
        >>> half = TimedNetwork(layers=0.5, elements=0.7, median=1.5, p90=2)
        >>> shares([one, half])
        (0.5, 0.0, 0.5)
    """
    # [networks, 3] and [networks].
    parts = doubles([[n.layers, n.elements, 1.0] for n in networks])
    times = doubles([n.median / networks[0].median for n in networks])
    best, least = doubles([1.0, 0.0, 0.0]), math.inf
    # The optimum is the one without limits on some face of the triangle.
    for used in _faces():
        found = _fit(parts, times, used)
        error = float((parts @ found - times).square().sum())
        # What is no better by more than rounding has more parts.
        if bool((found >= 0).all()) and error < least - 1e-12:
            best, least = found, error
    first, second, third = best.tolist()
    return first, second, third


def knots(networks: Sequence[TimedNetwork]) -> tuple[Tensor, Tensor]:
    """Returns where g is known: what parts tell, and what is measured.

    Networks are the faster the better they fit into caches, which no sum of
    parts tells. Branches make one larger than the dense one: its time grows
    in proportion, whatever the last measured piece was like.

    Args:
        networks (Sequence[TimedNetwork]): The dense one first.

    Returns:
        tuple[Tensor, Tensor]: Both as fractions of the dense network,
        ascending from 0 over 1 to 2; ``[networks + 2]`` at most.
    """
    share = doubles(shares(networks))
    first = networks[0].median
    found = {0.0: 0.0}
    for network in networks:
        row = doubles([network.layers, network.elements, 1.0])
        # Rounded, so that equal networks are one.
        place = round(float(row @ share), 9)
        found[place] = min(network.median / first, 1.0)
    # One that is as large as the dense one says no more than that.
    found = {k: v for k, v in found.items() if k < 1} | {1.0: 1.0, 2.0: 2.0}
    places = doubles(sorted(found))
    times = doubles([found[place] for place in sorted(found)])
    return places, isotonic(times[None])[0]


def between(value: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Interpolates in a line, and beyond its end as the last piece goes on.

    Args:
        value (Tensor): Where; scalar.
        places (Tensor): Where it is known, ascending; ``[points]``.
        values (Tensor): What is known there, likewise.

    Examples:
        >>> places, values = (
        ...     torch.tensor([0.0, 2, 4]),
        ...     torch.tensor([0.0, 1, 5]),
        ... )
        >>> between(torch.tensor(3.0), places, values)
        tensor(3.)
    """
    # The last piece that begins before it: where two meet, the one from which
    # channels are removed.
    piece = (places < value.detach()).sum() - 1
    piece = piece.clamp(0, len(places) - 2)
    low, high = places[piece], places[piece + 1]
    share = (value - low) / (high - low)
    return values[piece] * (1 - share) + values[piece + 1] * share


def _faces() -> Iterator[tuple[int, ...]]:
    """Corners, edges and the inside: (0,) (1,) (2,) (0, 1) ... (0, 1, 2)."""
    # Ties go to what comes first. The constant before elements: networks
    # that do not tell them apart promise less.
    for count in (1, 2, 3):
        yield from itertools.combinations((0, 2, 1), count)


def _fit(parts: Tensor, times: Tensor, used: Sequence[int]) -> Tensor:
    """Least squares with a sum of 1 and nothing but some parts, ``[3]``."""
    *free, last = used
    found = torch.zeros(3, dtype=torch.float64)
    if free:
        # The last share is 1 minus the others.
        matrix = parts[:, free] - parts[:, [last]]
        goal = (times - parts[:, last])[:, None]
        solved = torch.linalg.lstsq(matrix, goal, driver='gelsd').solution
        found[free] = solved[:, 0]
    found[last] = 1 - found.sum()
    return found
