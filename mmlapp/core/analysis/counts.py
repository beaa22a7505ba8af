# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How many channels a network on trial keeps, and which."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from enum import Enum
from types import MappingProxyType

import torch
from torch import Tensor

from ..groups import Groups

GOLDEN = (5**0.5 - 1) / 2
# Channels that a norm is computed over where others have one left.
NORMALISED = 3
# Sizes of which all groups would keep the same number, and another one for
# every second of them.
OTHERWISE = {3: 1, 4: 2, 5: 2, 6: 5, 7: 6}
NO_COUNTS: Mapping[str, int] = MappingProxyType({})


class Count(Enum):
    """How much of each group is left; the value is how a reason says it."""

    SOME = 'fewer of them'
    # A norm over a single channel returns its shift, whatever comes in, and
    # over two a sign, which hides what happened before: groups that it
    # normalises keep three.
    ONE = 'one of them left'
    ALONE = 'only one of them left'


def kept_count(size: int, number: int) -> int:
    """Returns how many channels a group keeps of some.

    A quarter to three quarters, spread by the golden ratio, for equal
    widths would hide that code relies on them, and a number that has nothing
    in common with the size: code that divides channels into equal parts fails
    as if one channel were gone. Of an even size that is an odd prime. Of an
    odd one it is even, for code that asks for that has said no by then.

    Args:
        size (int): Channels of the group.
        number (int): Which group it is.

    Examples:
        >>> [kept_count(64, number) for number in range(4)]
        [47, 29, 41, 19]
        >>> [kept_count(size, 0) for size in range(2, 10)]
        [1, 2, 3, 4, 3, 4, 5, 8]
    """
    # Of groups 0 1 2 3: 0.75, 0.44, 0.63, 0.32.
    target = round((0.75 - 0.5 * (number * GOLDEN % 1)) * size)
    near = (k for step in range(size) for k in (target - step, target + step))
    told = (k for k in near if 2 < k < size and _is_unlike(k, size))
    return next(told, size - 1)


def some_counts(groups: Groups, normalised: Collection[str]) -> list[int]:
    """Returns how many channels each prunable group keeps of some.

    Args:
        groups (Groups): All groups.
        normalised (Collection[str]): Names of those that some norm is
            computed over: over two channels it hides what happened before.
    """
    found: list[int] = []
    met: Counter[int] = Counter()
    for number, group in enumerate(groups.prunable):
        count = kept_count(group.size, number)
        if group.size in OTHERWISE and group.name not in normalised:
            met[group.size] += 1
            if met[group.size] % 2 == 0:
                count = OTHERWISE[group.size]
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
