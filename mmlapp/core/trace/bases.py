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
# After how many it may be true again: each remainder is tried later.
MOST_TURNS = 8


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


def turns(
    most: int, function: Callable[[int], float], true: Callable[[float], bool]
) -> int | None:
    """Returns after how many channels something is true or not again.

    Args:
        most (int): All channels, of which it is true.
        function (Callable): Of a number of channels.
        true (Callable): Of what the function returns.

    Returns:
        int or None: None if it is always true, or does not come again twice
        after a few.

    Examples:
        >>> turns(12, lambda count: -count % 3, lambda left: left == 0)
        3
        >>> turns(12, lambda count: count - 3, lambda left: left > 0)
    """
    if most > LONGEST:
        return None
    found = [true(function(count)) for count in range(1, most + 1)]
    if all(found):
        return None
    periods = range(2, min(most // 3, MOST_TURNS) + 1)
    return next((p for p in periods if found[p:] == found[:-p]), None)


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
