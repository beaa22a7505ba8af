# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of channels that something is computed from, tried one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .counted import Counted

# Up to so many channels each number of them is tried.
LONGEST = 1024


def unlike_of(
    bases: Sequence[Counted],
) -> tuple[tuple[Counted, ...], list[int]]:
    """Returns each number once, and which of these each is.

    Args:
        bases (Sequence[Counted]): Numbers of channels, some of the same.
    """
    found: list[Counted] = []
    places = []
    for base in bases:
        place = next((k for k, b in enumerate(found) if _same(b, base)), -1)
        if place < 0:
            place = len(found)
            found.append(base)
        places.append(place)
    return tuple(found), places


def least_count(
    most: int, function: Callable[[int], float], true: Callable[[float], bool]
) -> int:
    """Returns from which number on something is true of a function.

    Args:
        most (int): All channels, of which it is true.
        function (Callable): Of a number of channels.
        true (Callable): Of what the function returns.

    Examples:
        >>> least_count(12, lambda count: count // 5, lambda part: part > 0)
        5
    """
    if most > LONGEST:
        # As if the function never falls, or never rises.
        return bisect_left(
            range(most + 1), True, 1, most, key=lambda n: true(function(n))
        )
    # Of b (b - a) it may be true, not, and true again.
    counts = range(most - 1, 0, -1)
    return 1 + next((n for n in counts if not true(function(n))), 0)


def period(function: Callable[[int], float], most: int, by: int) -> int:
    """Returns after how many channels what is left over comes again.

    Args:
        function (Callable): What is divided, of a number of channels.
        most (int): All channels.
        by (int): By what it is divided.

    Examples:
        >>> period(lambda count: count // 2, 12, 3)
        6
    """
    if by < 1 or most > LONGEST:
        return by
    left = [function(count) % by for count in range(1, most + 1)]
    periods = range(1, most)
    return next((p for p in periods if left[p:] == left[:-p]), by)


def _same(a: Counted, b: Counted) -> bool:
    """Whether two numbers count the same, and as often."""
    if a is b:
        return True
    if int(a) != int(b) or len(a.terms) != len(b.terms):
        return False
    return all(
        (v.times, v.parts) == (w.times, w.parts)
        and v.source.attribute == w.source.attribute
        and torch.equal(v.source.labels(), w.source.labels())
        for v, w in zip(a.terms, b.terms, strict=True)
    )
