# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What to try of networks with small groups, of which others try one number.

Of two channels one is left wherever some are, in each group of two, and of a
few that a norm is computed over all but one: code that relies on two of them
being equal would not be noticed. Other small groups keep one of two numbers,
always the same one of them more: code that cuts one tensor by the number of
elements of another would do as if that could not be otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ..groups import Groups
from ..trace import Trace
from .checks import Check
from .counts import OTHERWISE, some_counts
from .runs import normalised_groups


def unequal_checks(record: Trace, groups: Groups) -> Iterator[Check]:
    """Yields checks in which one of two such groups is whole, or the other.

    Args:
        record (Trace): The trace of the network.
        groups (Groups): Its groups.
    """
    some = some_counts(groups, normalised_groups(record, groups))
    alike, tried = defaultdict(list), set()
    for group, count in zip(groups.prunable, some, strict=True):
        if group.size <= max(OTHERWISE):
            alike[group.size].append(group.name)
            # With another number than the first of this size.
            if count == OTHERWISE.get(group.size):
                tried.add(group.size)
    for first in (0, 1):
        whole = [
            (name, size)
            for size, names in alike.items()
            if len(names) > 1
            and (record.elements_counted or size not in tried)
            for name in names[first::2]
        ]
        if whole:
            yield Check(kept=tuple(whole))
