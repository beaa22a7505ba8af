# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Points and lengths of a training that gets another length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What MMEngine takes for infinity.
INF = int(1e9)


@dataclass(frozen=True)
class Stretch:
    """A training and what it becomes, both in epochs or both in iterations.

    Args:
        old (int): Its length.
        new (int): The length that it gets.

    Examples:
        >>> Stretch(200, 318).point(100)
        159
    """

    old: int
    new: int

    def point(self, value: Any) -> Any:
        """Returns where something lies that lay at ``value``.

        Whatever its unit: an epoch has as many iterations as before.

        Args:
            value (int or float): Distance from the beginning, rounded if it
                is whole; what MMEngine takes for infinity stays.
        """
        if value >= INF:
            return value
        if not isinstance(value, int):
            return value * self.new / self.old
        # value * new / old, rounded to the nearest, halves up:
        # floor(v n / o + 1 / 2) = floor((2 v n + o) / 2 o). In whole numbers,
        # so that the old length becomes the new one exactly.
        return (2 * value * self.new + self.old) // (2 * self.old)

    def span(self, length: Any, begin: Any = 0) -> Any:
        """Returns the length of what lay between two points; 1 at least.

        Args:
            length (int or float): Its length.
            begin (int or float): Where it began. Defaults to 0.
        """
        if length >= INF:
            return length
        # Both ends are rounded, not the length: what followed without a gap
        # does so again.
        found = self.point(begin + length) - self.point(begin)
        return max(found, 1) if isinstance(found, int) else found


# Makes a setting from the stretch, the settings beside it, and its value.
Role = Callable[[Stretch, Mapping[str, Any], Any], Any]


def keep(stretch: Stretch, entry: Mapping[str, Any], value: Any) -> Any:
    """A number of something else, or how often something happens."""
    return value


def point(stretch: Stretch, entry: Mapping[str, Any], value: Any) -> Any:
    """A distance from the beginning."""
    return stretch.point(value)


def first(stretch: Stretch, entry: Mapping[str, Any], value: int) -> int:
    """The first of something, counted from one."""
    # Epoch 1 is at distance 0, and stays the first.
    return max(stretch.point(value - 1) + 1, 1)


def end(stretch: Stretch, entry: Mapping[str, Any], value: int) -> int:
    """The end of what has a ``begin``, and lasts for one step at least."""
    begin = entry.get('begin', 0)
    if value >= INF:
        return value
    return stretch.point(begin) + stretch.span(value - begin, begin)


def span(stretch: Stretch, entry: Mapping[str, Any], value: Any) -> Any:
    """A length from ``begin`` on; None where it is that to the end."""
    return value and stretch.span(value, entry.get('begin', 0))


def last(stretch: Stretch, entry: Mapping[str, Any], value: int) -> int:
    """A length before the end; of one that has none it has none."""
    # The last 15 of 300 begin at 285: at 570 of 600, so that 30 are left.
    return stretch.new - stretch.point(max(stretch.old - value, 0))


def spans(
    stretch: Stretch, entry: Mapping[str, Any], value: Sequence[int]
) -> list[int]:
    """Lengths from ``begin`` on."""
    return [span(stretch, entry, item) for item in value]


def periods(
    stretch: Stretch, entry: Mapping[str, Any], value: Sequence[int]
) -> list[int]:
    """Lengths one after the other, the first from ``begin`` on."""
    begin, found = entry.get('begin', 0), []
    for length in value:
        found.append(stretch.span(length, begin))
        begin += length
    return found


def rate(stretch: Stretch, entry: Mapping[str, Any], value: float) -> float:
    """A factor of every step: gamma^E is what it was at the end."""
    # (gamma^(E / E'))^E' = gamma^E.
    return value ** (stretch.old / stretch.new)


def step(stretch: Stretch, entry: Mapping[str, Any], value: int) -> int:
    """A length that is repeated.

    With as many whole ones before the end as there were, or else the nearest.
    """
    exact = value * stretch.new / stretch.old
    # Rounded, then up, then down; the first that fits counts.
    near = [stretch.span(value), math.ceil(exact), max(math.floor(exact), 1)]
    old, room = _steps_before(stretch, entry)
    fits = [size for size in near if _times(size, room) == old]
    return [*fits, *near][0]


def step_rate(
    stretch: Stretch, entry: Mapping[str, Any], value: float
) -> float:
    """A factor of every repetition; all together as at the end before."""
    old, room = _steps_before(stretch, entry)
    new = _times(step(stretch, entry, entry['step_size']), room)
    # gamma^(old / new), new times over, is gamma^old.
    return value if old == new else value ** (old / max(new, 1))


def _steps_before(
    stretch: Stretch, entry: Mapping[str, Any]
) -> tuple[int, int]:
    """How often a length came, and how much room there is for a new one."""
    begin, stop = entry.get('begin', 0), entry.get('end', INF)
    # A scheduler without an end stops with the training.
    stop = min(stop, stretch.old)
    room = stretch.point(stop) - stretch.point(begin)
    return _times(entry['step_size'], stop - begin), room


def _times(size: int, length: int) -> int:
    # What comes with the end has no effect: 3 in 9 come twice, after 3 and 6.
    return max(length - 1, 0) // size


def firsts(
    stretch: Stretch, entry: Mapping[str, Any], value: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """Pairs of the first of something and what applies from it on."""
    return [(first(stretch, entry, at), kept) for at, kept in value]


def by_name(
    stretch: Stretch, entry: Mapping[str, Any], value: Mapping[str, int]
) -> dict[str, int]:
    """Points by name of what they belong to."""
    return {name: stretch.point(at) for name, at in value.items()}


def actions(
    stretch: Stretch,
    entry: Mapping[str, Any],
    value: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Entries of which each has a point of its own, ``action_epoch``."""
    return [
        {**item, 'action_epoch': stretch.point(item['action_epoch'])}
        for item in value
    ]
