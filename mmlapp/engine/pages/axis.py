# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a chart shows of one of its directions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

# What ticks are apart, times a power of ten; how many spaces there are.
STEPS, SPACES = (1, 2, 2.5, 5, 10), 5


@dataclass(frozen=True)
class Axis:
    """What a chart shows of one of its directions.

    Args:
        low (float): Where it begins.
        high (float): Where it ends.
        ticks (tuple[float, ...]): Numbers beside it.
    """

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Iterable[float], whole: bool = False) -> Axis:
        """Returns the axis of some numbers, which are not all NaN.

        Args:
            values (Iterable[float]): The numbers.
            whole (bool): Whether it shows whole numbers, and ends at the
                last one of them. Defaults to False: it ends at a tick.

        Examples:
            >>> Axis.over([0.02, 2.3])
            Axis(low=0.0, high=2.5, ticks=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5))
            >>> Axis.over([0, 690], whole=True)
            Axis(low=0, high=690, ticks=(0.0, 200.0, 400.0, 600.0))
        """
        found = [value for value in values if math.isfinite(value)]
        low, high = min(found), max(found)
        if low == high:
            # A flat line lies in the middle.
            apart = 1.0 if whole else abs(low) / 2 or 1.0
            low, high = low - apart, high + apart
        # The first tick lies at or below the least number, the last at or
        # above the largest.
        ticks = (
            MaxNLocator(SPACES, steps=STEPS, integer=whole)
            .tick_values(low, high)
            .tolist()
        )
        if whole:
            ticks = [tick for tick in ticks if low <= tick <= high]
            return cls(low, high, tuple(ticks))
        return cls(ticks[0], ticks[-1], tuple(ticks))

    @classmethod
    def around(cls, values: Iterable[float]) -> Axis:
        """Returns the axis from the least to the largest, without ticks.

        Args:
            values (Iterable[float]): Numbers; only finite ones count.
        """
        found = [value for value in values if math.isfinite(value)]
        low, high = min(found), max(found)
        return cls(low, high if high > low else low + 1, ())

    def share(self, value: float) -> float:
        """Where a number lies, 0 at the beginning and 1 at the end.

        Args:
            value (float): The number.
        """
        return (value - self.low) / (self.high - self.low)
