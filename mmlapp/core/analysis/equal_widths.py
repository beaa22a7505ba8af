# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What to try of networks whose code may rely on two equal numbers.

Of two channels one is left wherever some are, in each group of two, and of a
few that a norm is computed over all but one: code that relies on two of them
being equal would not be noticed. Other small groups keep one of two numbers,
always the same one of them more: code that cuts one tensor by the number of
elements of another would do as if that could not be otherwise.

Larger groups of one size keep different numbers until all that fit were used.
Where there are more of a size that code asks for, they keep others in further
turns, so that each two of them differ in one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from ..groups import Groups
from ..trace import Trace
from .checks import Check
from .counts import kept_count, numbers_of, places_of, some_counts
from .runs import normalised_groups

# The greatest size of small groups, which are tried whole as well.
SMALL = 7


def unequal_checks(record: Trace, groups: Groups) -> Iterator[Check]:
    """Yields checks in which equally wide groups keep unequal numbers.

    Args:
        record (Trace): The trace of the network.
        groups (Groups): Its groups.
    """
    yield from _small_ones(record, groups)
    yield from _further_turns(record, groups)


def _small_ones(record: Trace, groups: Groups) -> Iterator[Check]:
    """One of two small groups is whole, or the other."""
    some = some_counts(groups, normalised_groups(record, groups))
    names, counts = defaultdict(list), defaultdict(set)
    for group, count in zip(groups.prunable, some, strict=True):
        if group.size <= SMALL:
            names[group.size].append(group.name)
            counts[group.size].add(count)
    for first in (0, 1):
        whole = [
            (name, size)
            for size, alike in names.items()
            if len(alike) > 1
            and (record.elements_counted or len(counts[size]) < 2)
            for name in alike[first::2]
        ]
        if whole:
            yield Check(kept=tuple(whole))


def _further_turns(record: Trace, groups: Groups) -> Iterator[Check]:
    """Other numbers of groups of a size that code asks for."""
    asked = set(groups.node_group[record.measured_nodes].tolist()) - {-1}
    sizes = {groups.prunable[number].size for number in asked}
    # Of all of them: what has to be as wide may not be asked itself.
    places = defaultdict(list)
    for group, place in zip(groups.prunable, places_of(groups), strict=True):
        if group.size in sizes and group.size > SMALL:
            places[group.size].append((group.name, place))
    # Of n numbers the group at place p keeps the one of each digit of p to
    # the base n, in turn: of 0 1 2 3 4 to the base 3, 0 1 2 0 1, then 0 0 0 1
    # 1. By the last digits all groups keep some of their channels.
    turn = 1
    while again := [s for s in places if _some_alike(s, places[s], turn)]:
        yield Check(
            kept=tuple(
                (name, kept_count(size, place // _counted(size, turn)))
                for size in again
                for name, place in places[size]
            )
        )
        turn += 1


def _some_alike(
    size: int, places: Sequence[tuple[str, int]], turns: int
) -> bool:
    """Whether two groups of a size kept as many in all of some turns."""
    met = {place % _counted(size, turns) for _, place in places}
    return len(met) < len(places)


def _counted(size: int, digits: int) -> int:
    """How many places so many digits tell apart."""
    several = len(numbers_of(size))
    assert several > 1, size
    return int(several**digits)
