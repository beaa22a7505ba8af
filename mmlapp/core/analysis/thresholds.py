# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which numbers of channels code branches on and computes something else.

Where little would be left, groups keep what the code asks for. Else a floor
may cost much for a branch that does no harm, such as one that saves memory
where there are many channels: one and two less are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import Tensor

from ..floors import asked_counts, compared_counts
from ..groups import Groups
from ..trace import Trace
from .checks import Check
from .trial import Trial


def decide_thresholds(
    trial: Trial, record: Trace, gather: Callable[[], Groups]
) -> Groups:
    """Lets groups keep what code asks for, if fewer compute something else.

    Args:
        trial (Trial): Runs the network.
        record (Trace): Its trace, which receives floors.
        gather (Callable): Gathers the groups of the trace anew.

    Returns:
        Groups: With these floors.
    """
    groups = gather()
    tried: set[frozenset[tuple[str, int]]] = set()
    while wanted := _open(record, groups, tried):
        # The smallest first: what a larger one does below it does not count.
        (ids, least), kept = min(wanted, key=lambda found: found[0][1])
        tried.add(frozenset(kept.items()))
        if _matters(trial, groups, kept):
            record.lasting.append((ids, least))
            groups = gather()
    return groups


def _open(
    record: Trace, groups: Groups, tried: Collection[frozenset[Any]]
) -> list[tuple[tuple[Tensor, int], dict[str, int]]]:
    """What code asks for that no floor grants, with channels by group."""
    items, known = groups.prunable, (groups.node_group, groups.sizes)
    found = [
        (wanted, {items[n].name: count for n, count in counts.items()})
        for wanted, counts in chain(
            asked_counts(record, *known), compared_counts(record, *known)
        )
        if any(count > items[n].floor for n, count in counts.items())
    ]
    return [
        (w, kept) for w, kept in found if frozenset(kept.items()) not in tried
    ]


def _matters(trial: Trial, groups: Groups, kept: Mapping[str, int]) -> bool:
    """Whether less than code asks for computes something else."""
    # What only has to run cannot tell.
    if not all(way.compare for way in trial.ways):
        return True
    chosen = [group for group in groups.prunable if group.name in kept]

    def fails(counts: Mapping[str, int]) -> bool:
        checks = {
            *(Check(way=number) for number in range(len(trial.ways))),
            *trial.asking,
        }
        left = tuple(counts.items())
        return any(
            trial.run(groups, chosen, replace(check, kept=left))
            for check in sorted(checks, key=lambda c: (c.train, c.way))
        )

    # min(C, 8), which asks for nine, gives what it did with eight.
    fewer = ({k: count - n for k, count in kept.items()} for n in (1, 2))
    # What fails with as many as it asks for does so for another reason.
    return any(map(fails, fewer)) and not fails(kept)
