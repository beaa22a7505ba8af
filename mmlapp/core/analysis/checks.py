# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is tried of a network, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .counts import Count
from .ways import Way


@dataclass(frozen=True)
class Check:
    """What is tried.

    Args:
        count (Count): How many channels of each group are left. Defaults to
            some.
        way (int): Which way to run the network; 0 is that of the trace.
            Defaults to 0.
        train (bool): Whether in training mode, in which it only has to run.
            Defaults to False.
        kept (tuple[tuple[str, int], ...]): How many channels groups keep,
            by their names, whatever ``count`` says. Defaults to nothing.
    """

    count: Count = Count.SOME
    way: int = 0
    train: bool = False
    kept: tuple[tuple[str, int], ...] = ()


def checks_of(ways: Sequence[Way]) -> Iterator[Check]:
    """Yields what is tried, in order.

    Args:
        ways (Sequence[Way]): All ways to run the network.
    """
    for count in (Count.SOME, Count.ONE):
        for number, way in enumerate(ways):
            if way.compare:
                yield Check(count, number)
    # What happens before a norm over one channel, layers show.
    yield Check(Count.ALONE)
    # Where nothing is compared, a norm over one channel hides nothing.
    for count in (Count.SOME, Count.ALONE):
        for number, way in enumerate(ways):
            if not way.compare:
                yield Check(count, number)
    yield Check(Count.SOME, train=True)
    if not has_loss(ways):
        yield Check(Count.ALONE, train=True)


def has_loss(ways: Sequence[Way]) -> bool:
    """Whether it is known how a network is really trained.

    Args:
        ways (Sequence[Way]): All ways to run it.
    """
    return any(way.train and not way.compare for way in ways)


def compares_modes(check: Check) -> bool:
    """Whether training must compute the same, and not just run.

    Args:
        check (Check): What is tried.
    """
    return check.train and check.count is Count.SOME
