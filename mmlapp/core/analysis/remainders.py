# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What to try of networks whose code looks at remainders of numbers.

``f(x) if x.shape[1] % 4 == 0 else x`` computes something else at some numbers
of channels between those that are tried of every network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from ..groups import Groups
from ..trace import Trace
from ..trace.thresholds import Remainder
from .checks import Check
from .counts import some_counts
from .runs import normalised_groups

# Of large divisors not every remainder is tried; none at all always is.
MOST = 8


def remainder_checks(
    record: Trace, groups: Groups, asking: Sequence[Check] = ()
) -> Iterator[Check]:
    """Yields what is tried of the example beside all else.

    One number of channels of each group for every remainder. All others are
    whole: where little is left a rectifier may change nothing.

    Args:
        record (Trace): The trace of the network.
        groups (Groups): Its groups.
        asking (Sequence[Check]): Where else code asks for numbers. Defaults
            to nowhere.
    """
    whole = {group.name: group.size for group in groups.prunable}
    some = some_counts(groups, normalised_groups(record, groups))
    for asked in record.remainders:
        owners = groups.node_group[asked.ids[asked.ids >= 0]].tolist()
        counts = Counter(number for number in owners if number >= 0)
        if _is_tried(asked, groups, counts, some):
            continue
        for number, often in counts.items():
            group = groups.prunable[number]
            kept = _counts(
                group.size, len(asked.ids), often // group.size, asked.divisor
            )
            for count, check in product(kept, (Check(), *asking)):
                left = {**whole, group.name: count}
                yield replace(check, kept=tuple(left.items()))


def _is_tried(
    asked: Remainder,
    groups: Groups,
    counts: Mapping[int, int],
    some: Sequence[int],
) -> bool:
    """Whether all that was left over is nothing, and with some it is more.

    Code asks whether it can divide; that is what every network is tried for.
    """
    gone = sum(
        often
        - often // groups.sizes[n] * max(groups.prunable[n].floor, some[n])
        for n, often in counts.items()
    )
    return not len(asked.ids) % asked.divisor and bool(gone % asked.divisor)


def _counts(size: int, whole: int, often: int, divisor: int) -> list[int]:
    """How many channels of a group to keep, one for each remainder.

    Args:
        size (int): Channels of the group.
        whole (int): Indices of the dimension that is counted.
        often (int): How many of them each channel has.
        divisor (int): By what their number is divided.
    """
    found: dict[int, int] = {}
    for gone in range(1, size):
        found.setdefault((whole - gone * often) % divisor, size - gone)
    found.pop(whole % divisor, None)  # as with all of them
    return [found[remainder] for remainder in sorted(found)[:MOST]]
