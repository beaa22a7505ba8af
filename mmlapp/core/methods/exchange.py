# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Exchanges between groups where one channel is worth much of the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Groups whose numbers are searched at once, and networks that are tried in
# all: a cost takes about 0.1 ms.
WINDOW = 6
TRIALS = 400


def exchange(
    used: Callable[[Tensor], float],
    mask: Tensor,
    group: Tensor,
    floors: Sequence[int],
    enough: float,
) -> Tensor:
    """Looks for numbers of kept entries that use more of a budget.

    Branch and bound over the numbers of a few groups at a time: what is too
    large with all further groups at their least, or no better with all of
    them at their most, is not looked into. At first no number may change by
    more than one, then by two, four and so on: the ranking decided well.

    Args:
        used (Callable): Used share of the budget of a mask; it fits up to 1.
        mask (Tensor): A network that fits, bool ``[entries]``; of each group
            the first ones.
        group (Tensor): Group of every entry, ``[entries]``, ascending.
        floors (Sequence[int]): Fewest entries to keep, per group.
        enough (float): Used share at which the search ends.

    Returns:
        Tensor: A mask that fits and uses no less, likewise.

    Examples:
        >>> group = torch.tensor([0, 0, 0, 1, 1])
        >>> price = torch.tensor([2.0, 2, 2, 3, 3])
        >>> mask = torch.tensor([1, 1, 1, 0, 0]).bool()
        >>> def used(kept):
        ...     return float(price[kept].sum()) / 8
        >>> exchange(used, mask, group, [1, 0], enough=0.9)
        tensor([ True, False, False,  True,  True])
    """
    search = _Search(used, mask, group, floors, enough)
    # The finest last: they take up what a change of the others leaves.
    order = search.coarse_to_fine()
    reach = 1
    while search.goes_on() and reach < 2 * max(search.size):
        for end in range(len(order), 0, -WINDOW):
            search.visit(order[max(end - WINDOW, 0) : end], reach)
        reach *= 2
    return search.mask(search.best)


class _Search:
    """The best numbers so far, and what is left of the trials."""

    def __init__(
        self,
        used: Callable[[Tensor], float],
        mask: Tensor,
        group: Tensor,
        floors: Sequence[int],
        enough: float,
    ) -> None:
        self.of_mask, self.group, self.enough = used, group, enough
        self.size = group.bincount(minlength=len(floors)).tolist()
        self.least, self.trials = list(floors), TRIALS
        # Place of every entry in its group: 0 1 2 0 1 0 1 2 3 ...
        starts = torch.tensor([0, *self.size], device=group.device).cumsum(0)
        self.place = torch.arange(len(group), device=group.device)
        self.place = self.place - starts[group]
        kept = group[mask].bincount(minlength=len(floors))
        self.start: list[int] = kept.tolist()
        self.best = self.start
        self.known: dict[tuple[int, ...], float] = {}
        self.share = 0.0
        self.used(self.best)
        # Numbers that every group may have for the time being.
        self.ranges: list[list[int]] = []

    def mask(self, counts: Sequence[int]) -> Tensor:
        """The first entries of every group, bool ``[entries]``."""
        kept = torch.tensor(counts, device=self.group.device)
        return self.place < kept[self.group]

    def used(self, counts: Sequence[int]) -> float:
        """Used share of the budget; notes what fits and is better."""
        key = tuple(counts)
        if key not in self.known:
            self.trials -= 1
            self.known[key] = self.of_mask(self.mask(counts))
        if self.share < self.known[key] <= 1:
            self.best, self.share = list(counts), self.known[key]
        return self.known[key]

    def goes_on(self) -> bool:
        """Whether there is something to find, and a trial left."""
        return self.share < self.enough and self.trials > 0

    def coarse_to_fine(self) -> list[int]:
        """Groups by what one entry of them costs, the dearest first."""
        counts, cost = list(self.best), []
        for g, kept in enumerate(counts):
            counts[g] = kept - 1 if kept > self.least[g] else kept + 1
            free = self.least[g] < self.size[g]
            cost.append(abs(self.used(counts) - self.share) if free else 0)
            counts[g] = kept
        return sorted(range(len(cost)), key=lambda g: -cost[g])

    def visit(self, free: Sequence[int], reach: int) -> None:
        """Tries numbers for these groups; the others stay.

        Args:
            free (Sequence[int]): Their groups.
            reach (int): How far a number may go from where it began.
        """
        self.ranges = [
            _around(kept, reach, least, size)
            for kept, least, size in zip(
                self.start, self.least, self.size, strict=True
            )
        ]
        self._visit(list(self.best), free)

    def _visit(self, counts: list[int], free: Sequence[int]) -> None:
        g, rest = free[0], free[1:]
        for value in self.ranges[g]:
            if not self.goes_on():
                return
            tried = list(counts)
            tried[g] = value
            if rest and self._promises(tried, rest):
                self._visit(tried, rest)
            elif not rest:
                self.used(tried)

    def _promises(self, counts: list[int], rest: Sequence[int]) -> bool:
        """Whether a better network may lie between the two ends."""
        low, high = list(counts), list(counts)
        for g in rest:
            low[g], high[g] = min(self.ranges[g]), max(self.ranges[g])
        return self.used(low) <= 1 and self.used(high) > self.share


def _around(middle: int, reach: int, least: int, most: int) -> list[int]:
    """Numbers within bounds, the nearest first: 5 4 6 3 7."""
    near = range(max(middle - reach, least), min(middle + reach, most) + 1)
    return sorted(near, key=lambda value: abs(value - middle))
