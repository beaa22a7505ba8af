# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Times of several functions that take turns, by median and p90."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mmlapp.core.numbers import check_number

# p90 over median from which on nothing is claimed.
NOISY = 1.2


@dataclass(frozen=True)
class Timing:
    """What a function took.

    Args:
        median (float): Seconds.
        p90 (float): What nine of ten calls did not exceed.
    """

    median: float
    p90: float

    @property
    def noisy(self) -> bool:
        """Whether calls differ too much for a claim."""
        return self.p90 > NOISY * self.median


def summary(seconds: Sequence[float]) -> Timing:
    """Returns median and p90 of measured times.

    Args:
        seconds (Sequence[float]): Of each call; one at least.

    Examples:
        >>> summary([3.0, 1.0, 2.0])
        Timing(median=2.0, p90=3.0)
    """
    ordered = sorted(seconds)
    # The least value that nine of ten do not exceed: of 10 the ninth.
    rank = math.ceil(0.9 * len(ordered)) - 1
    return Timing(statistics.median(ordered), ordered[rank])


def interleaved(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Times functions turn by turn, so that what slows one slows all.

    Args:
        runs (Sequence[Callable]): What to time.
        rounds (int): Timed calls of each.
        warm_up (int): Calls of each before that. Defaults to 3.
        clock (Callable): Seconds, once all work is done. Defaults to that
            of the CPU.

    Returns:
        list[Timing]: One for each function.
    """
    check_number('rounds', rounds, least=1, whole=True)
    check_number('warm_up', warm_up, least=0, whole=True)
    # The first calls fetch memory and choose kernels.
    for run in runs:
        for _ in range(warm_up):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds):
        for i in _order(len(runs), turn):
            started = clock()
            runs[i]()
            times[i].append(clock() - started)
    return [summary(each) for each in times]


def _order(count: int, turn: int) -> list[int]:
    """Who begins and who comes after whom changes from turn to turn."""
    order = [(i + turn) % count for i in range(count)]
    return order[::-1] if turn % 2 else order


def clock_of(device: str) -> Callable[[], float]:
    """Returns a clock that waits for what a device was given to do.

    Args:
        device (str): Its type, ``cpu`` or ``cuda``.
    """

    def waiting() -> float:
        # Kernels are queued: without waiting only their launch is timed.
        torch.cuda.synchronize()
        return time.perf_counter()

    return waiting if device == 'cuda' else time.perf_counter


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Lets torch compute on so many threads for a while.

    Args:
        count (int): Of one operator.
    """
    check_number('threads', count, least=1, whole=True)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
