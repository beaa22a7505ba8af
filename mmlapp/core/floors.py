# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Fewest channels that groups keep, so that enough indices are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor

from .trace import Trace

# Floors of so many channels, or of this share of a group, cost next to none.
FEW, SMALL = 4, 0.25


def least_counts(
    ids: Tensor, least: int, owner: Tensor, sizes: Mapping[int, int]
) -> dict[int, int]:
    """Returns how many channels groups keep, so that enough indices are left.

    Every group keeps one in any case. Of several in one dimension each keeps
    the same share, which is more than is needed.

    Args:
        ids (Tensor): Nodes of the dimension, -1 for none; ``[size]``.
        least (int): Indices of it that must be left.
        owner (Tensor): Number of the group of every node, -1 for none.
        sizes (Mapping[int, int]): Channels of each group that can lose some.

    Returns:
        dict[int, int]: By groups; empty if one channel of each is enough, or
        if the dimension has a part of one only: no number of its channels
        tells how many of them are there.

    Examples:
        >>> owner = torch.tensor([0] * 8 + [1] * 4)
        >>> least_counts(torch.arange(8), 3, owner, {0: 8, 1: 4})
        {0: 3}
        >>> least_counts(torch.arange(12), 6, owner, {0: 8, 1: 4})
        {0: 4, 1: 2}
        >>> least_counts(torch.arange(12), 6, owner, {0: 8})
        {0: 2}
        >>> least_counts(torch.arange(12), 2, owner, {0: 8, 1: 4})
        {}
    """
    counts = _count(ids, owner, sizes)
    total = sum(counts.values())
    needed = least - (len(ids) - total)  # beside what stays
    if any(count % sizes[number] for number, count in counts.items()):
        return {}
    if sum(count // sizes[n] for n, count in counts.items()) >= needed:
        return {}
    # Rounded up: floors [c] of sizes [s] at k indices per channel are
    # sum(k c) >= needed sum(k s) / total = needed.
    return {n: -(-needed * sizes[n] // total) for n in counts}


def asked_counts(
    trace: Trace, owner: Tensor, sizes: Mapping[int, int]
) -> Iterator[tuple[tuple[Tensor, int], dict[int, int]]]:
    """Yields what code asks for when it branches, and what groups keep then.

    Args:
        trace (Trace): What one forward recorded.
        owner (Tensor): Number of the group of every node, -1 for none.
        sizes (Mapping[int, int]): Channels of each group that can lose some.
    """
    for threshold in trace.thresholds:
        # A number of other channels shrinks as well.
        if not _count(threshold.against, owner, sizes):
            wanted = threshold.ids, threshold.least
            yield wanted, least_counts(*wanted, owner, sizes)


def compared_counts(
    trace: Trace, owner: Tensor, sizes: Mapping[int, int]
) -> Iterator[tuple[tuple[Tensor, int], dict[int, int]]]:
    """Yields what groups keep to stay more than others are at first.

    Code that compares two numbers of channels goes on as it did as long as
    the larger one exceeds all that the smaller one can be. Arguments are
    those of :func:`asked_counts`.
    """
    for threshold in trace.thresholds:
        against = _count(threshold.against, owner, sizes)
        if against:
            wanted = _without(threshold.ids, threshold.least, owner, against)
            yield wanted, least_counts(*wanted, owner, sizes)


def _without(
    ids: Tensor, least: int, owner: Tensor, against: Mapping[int, int]
) -> tuple[Tensor, int]:
    """What one side must have beside what both sides of a comparison have.

    Groups of both shrink on both alike: of 8 + 6 against 6 it is 8 against
    none.
    """
    numbers = torch.where(ids < 0, -1, owner[ids])
    kept = torch.ones_like(ids, dtype=torch.bool)
    for number, count in against.items():
        kept[(numbers == number).nonzero()[:count, 0]] = False
    return ids[kept], least - int((~kept).sum())


def _count(
    ids: Tensor, owner: Tensor, sizes: Mapping[int, int]
) -> Counter[int]:
    """How many indices of a dimension belong to each group in ``sizes``."""
    numbers = torch.where(ids < 0, -1, owner[ids]).tolist()
    return Counter(number for number in numbers if number in sizes)


def small_counts(
    trace: Trace, owner: Tensor, sizes: Mapping[int, int]
) -> Iterator[dict[int, int]]:
    """Yields what groups keep for code that branches, if it is little.

    Arguments are those of :func:`asked_counts`.
    """
    for _, counts in chain(
        asked_counts(trace, owner, sizes),
        compared_counts(trace, owner, sizes),
    ):
        if all(c <= max(FEW, SMALL * sizes[n]) for n, c in counts.items()):
            yield counts
