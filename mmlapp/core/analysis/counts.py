# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How many channels a network on trial keeps, and which."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from enum import Enum
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from ..groups import Groups

GOLDEN = (5**0.5 - 1) / 2
# Channels that a norm is computed over where others have one left.
NORMALISED = 3
# Sizes of which all groups would keep the same number, and another one for
# every second of them.
OTHERWISE = {3: 1, 4: 2, 5: 2}
# How many numbers groups of one size keep in turn: of fewer than the first
# all that fit, and of more than the second no more, for they take time.
FEWEST, MOST = 4, 32
NO_COUNTS: Mapping[str, int] = MappingProxyType({})


class Count(Enum):
    """How much of each group is left; the value is how a reason says it."""

    SOME = 'fewer of them'
    # A norm over a single channel returns its shift, whatever comes in, and
    # over two a sign, which hides what happened before: groups that it
    # normalises keep three.
    ONE = 'one of them left'
    ALONE = 'only one of them left'


def kept_count(size: int, place: int) -> int:
    """Returns how many channels a group keeps of some.

    A quarter to three quarters, spread by the golden ratio, and another
    number for each group of a size until all were used, for equal ones would
    hide that code relies on them. It has nothing in common with the size:
    code that divides channels into equal parts fails as if one channel were
    gone. Of an even size that is an odd prime. Of an odd one it is even, for
    code that asks for that has said no by then.

    Args:
        size (int): Channels of the group.
        place (int): Which group of this size it is.

    Examples:
        >>> [kept_count(64, place) for place in range(4)]
        [47, 29, 41, 19]
        >>> [kept_count(size, 0) for size in range(2, 10)]
        [1, 2, 3, 4, 5, 6, 5, 8]
    """
    numbers = numbers_of(size)
    return numbers[place % len(numbers)]


@cache
def numbers_of(size: int) -> tuple[int, ...]:
    """Returns the numbers that groups of a size keep, one after the other.

    Args:
        size (int): Channels of a group.

    Examples:
        >>> numbers_of(16), numbers_of(9), numbers_of(3)
        ((11, 7, 13, 5, 3), (8, 4), (2,))
    """
    fitting = [k for k in range(3, size) if _is_unlike(k, size)]
    inner = [k for k in fitting if size <= 8 * k <= 7 * size]
    left = inner if len(inner) >= FEWEST else fitting
    found: list[int] = []
    while left and len(found) < MOST:
        # At places 0 1 2 3: 0.75, 0.44, 0.63, 0.32.
        target = (0.75 - 0.5 * (len(found) * GOLDEN % 1)) * size
        found.append(min(left, key=lambda k: abs(k - target)))
        left.remove(found[-1])
    return tuple(found) or (size - 1,)


def places_of(groups: Groups) -> list[int]:
    """Returns the place of each prunable group among those of its size.

    Args:
        groups (Groups): All groups.
    """
    met: Counter[int] = Counter()
    places = []
    for group in groups.prunable:
        places.append(met[group.size])
        met[group.size] += 1
    return places


def some_counts(groups: Groups, normalised: Collection[str]) -> list[int]:
    """Returns how many channels each prunable group keeps of some.

    Args:
        groups (Groups): All groups.
        normalised (Collection[str]): Names of those that some norm is
            computed over: over two channels it hides what happened before.
    """
    found: list[int] = []
    for group, place in zip(groups.prunable, places_of(groups), strict=True):
        count = kept_count(group.size, place)
        if place % 2 and group.name not in normalised:
            count = OTHERWISE.get(group.size, count)
        found.append(count)
    return found


def _is_unlike(number: int, size: int) -> bool:
    """Whether nothing that divides channels of a size divides a number."""
    if size % 2:
        return number % 2 == 0 and math.gcd(number, size) == 1
    return all(number % d for d in range(2, math.isqrt(number) + 1))


def trial_mask(
    groups: Groups,
    names: Collection[str],
    count: Count,
    floor: int,
    normalised: Collection[str] = (),
    kept: Mapping[str, int] = NO_COUNTS,
) -> Tensor:
    """Returns which channels are kept, bool in global order, [channels].

    Args:
        groups (Groups): All groups.
        names (Collection[str]): Those that lose channels.
        count (Count): How much of them is left.
        floor (int): Fewest channels that any group keeps.
        normalised (Collection[str]): Groups that some norm is computed over.
            Defaults to none.
        kept (Mapping[str, int]): How much of some is left all the same, by
            their names. Defaults to none.
    """
    generator = torch.Generator().manual_seed(0)
    some = some_counts(groups, normalised)
    parts = []
    for number, group in enumerate(groups.prunable):
        order = torch.randperm(group.size, generator=generator)
        part = torch.ones(group.size, dtype=torch.bool)
        if group.name in names:
            left = some[number] if count is Count.SOME else 1
            if count is Count.ONE and group.name in normalised:
                left = min(group.size, NORMALISED)
            left = max(floor, group.floor, kept.get(group.name, left))
            part[order[left:]] = False
        parts.append(part)
    # Group by group is the global order.
    return torch.cat(parts)
