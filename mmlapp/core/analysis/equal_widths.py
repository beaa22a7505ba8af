# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What to try of networks with small groups, of which others try one number.

Of four channels three are left wherever some are, in each group of four: code
that relies on two of them being equal would not be noticed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ..groups import Groups
from .checks import Check
from .counts import Count, kept_count

# So many numbers of groups show whether the number that is left differs.
NUMBERS = 4


def unequal_checks(groups: Groups) -> Iterator[Check]:
    """Yields checks in which one of two such groups is whole, or the other.

    Args:
        groups (Groups): Of the network.
    """
    alike = defaultdict(list)
    for group in groups.prunable:
        if _is_small(group.size):
            alike[group.size].append(group.name)
    for first in (0, 1):
        whole = [
            (name, size)
            for size, names in alike.items()
            if len(names) > 1
            for name in names[first::2]
        ]
        if whole:
            yield Check(kept=tuple(whole))


def _is_small(size: int) -> bool:
    """Whether the same number is left of all groups of this size."""
    counts = (kept_count(size, n, Count.SOME) for n in range(NUMBERS))
    return len(set(counts)) == 1
