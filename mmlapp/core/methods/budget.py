# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The exact budget at the end of the pruning phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PruningError
from ..numbers import check_number
from ..segments import segments
from .exchange import exchange

Costs = Sequence[tuple[Callable[[Tensor], Tensor], float]]


@dataclass(frozen=True)
class Budget:
    """What may be spent, on one cost or on several at once.

    Args:
        limits (Sequence): Each cost as a function of the kept channels on
            the CPU, ``[channels]`` to a scalar, and its limit, in the same
            unit.

    Examples:
        >>> budget = Budget([(torch.sum, 4.0)])
        >>> budget.used(torch.ones(3)), budget.used(torch.ones(5)) > 1
        (0.75, True)
    """

    limits: Costs

    def used(self, kept: Tensor) -> float:
        """Returns the largest used share of any limit; at most 1 if it fits.

        Args:
            kept (Tensor): Kept (1) or removed (0), ``[channels]``.
        """
        shares = []
        for cost, limit in self.limits:
            value = float(cost(kept))
            share = value / limit
            # Rounded, a quotient may be 1 although the limit is exceeded.
            # Larger than 1 exactly if a limit is exceeded: rounding to nearest
            # never takes value / limit > 1 below 1, and 1 + eps is the next
            # number above 1.
            shares.append(
                min(share, 1.0)
                if value <= limit
                else max(share, 1 + torch.finfo(torch.float64).eps)
            )
        return max(shares)


@dataclass(frozen=True)
class Chunks:
    """Channels of a group that stay or go together, the best ones first.

    Args:
        owner (Tensor): Chunk of every channel, ``[channels]``.
        margin (Tensor): Mean ranking of its channels, ``[chunks]``.
        group (Tensor): Group of every chunk, ``[chunks]``.
        floors (Sequence[int]): Fewest chunks to keep, per group.
    """

    owner: Tensor
    margin: Tensor
    group: Tensor
    floors: Sequence[int]


def check_divisor(divisor: int) -> int:
    """Returns a divisor of channel counts.

    Args:
        divisor (int): The number.

    Raises:
        PruningError: If it is no whole number from 1 on, or a truth value.
    """
    checked: int = check_number('divisor', divisor, least=1, whole=True)
    return checked


def divisors_of(divisor: int, widths: Iterable[int]) -> list[int]:
    """Returns a divisor of channels in the parts of every group.

    Args:
        divisor (int): What numbers of channels are multiples of.
        widths (Iterable[int]): Channels of each part, such as of a head or
            of a group of a norm, per group.

    Examples:
        Of heads of 12 channels two are a multiple of 8, of heads of 16 one.

        >>> divisors_of(8, [1, 12, 16])
        [8, 2, 1]
    """
    return [divisor // math.gcd(divisor, width) for width in widths]


def whole_chunks(
    counts: Sequence[int], sizes: Sequence[int], divisors: Sequence[int]
) -> list[int]:
    """Rounds numbers of channels up to multiples, at most to all.

    Args:
        counts (Sequence[int]): Channels, per group.
        sizes (Sequence[int]): Of the groups.
        divisors (Sequence[int]): What to be multiples of, per group.

    Examples:
        >>> whole_chunks([1, 9, 9], [32, 32, 12], [8, 8, 8])
        [8, 16, 12]
    """
    return [
        # Rounded up: -(-9 // 8) = 2.
        min(-(-count // divisor) * divisor, size)
        for count, size, divisor in zip(counts, sizes, divisors, strict=True)
    ]


def chunks(
    margin: Tensor,
    group: Tensor,
    floors: Sequence[int],
    divisor: int | Sequence[int],
) -> Chunks:
    """Makes chunks of ``divisor`` channels; the last of a group may be less.

    Args:
        margin (Tensor): The larger, the longer kept; ``[channels]``.
        group (Tensor): Group of every channel, ``[channels]``.
        floors (Sequence[int]): Fewest channels to keep, per group.
        divisor (int or Sequence[int]): Channels of a chunk, per group or in
            all of them.

    Returns:
        Chunks: Channel by channel if ``divisor`` is 1.
    """
    each = [divisor] * len(floors) if isinstance(divisor, int) else divisor
    # owner: [channels] -> chunk. Chunks are numbered group by group.
    owner, groups, count = torch.empty_like(group), [], 0
    for g, size in enumerate(each):
        index = (group == g).nonzero()[:, 0]
        best = index[margin[index].argsort(descending=True, stable=True)]
        # Ranks 0 .. divisor - 1 are the first chunk, and so on.
        # 5 channels, divisor 2: ranks 0 1 | 2 3 | 4, three chunks.
        rank = torch.arange(len(best), device=best.device)
        owner[best] = count + rank // size
        groups += [g] * -(-len(best) // size)  # rounded up
        count = len(groups)
    # Sum over the channels of a chunk, [channels] -> [chunks], then the mean:
    # a small last chunk must not look worse for being small.
    total = margin.new_zeros(count).index_add(0, owner, margin)
    mean = total / owner.bincount(minlength=count)
    of_chunk = torch.tensor(groups, device=group.device)
    for g in range(len(floors)):
        # Rounded, the mean of equal numbers may grow from chunk to chunk.
        mean[of_chunk == g] = mean[of_chunk == g].cummin(0).values
    # Floor 3 of divisor 2: two chunks, 4 channels. Rounded up.
    least = [
        -(-floor // size) for floor, size in zip(floors, each, strict=True)
    ]
    return Chunks(owner, mean, of_chunk, least)


def floor_mask(margin: Tensor, group: Tensor, floors: Sequence[int]) -> Tensor:
    """Keeps each group's best channels up to its floor.

    Args:
        margin (Tensor): The larger, the longer kept; ``[channels]``.
        group (Tensor): Group of every channel, ascending, ``[channels]``.
        floors (Sequence[int]): Fewest channels to keep, per group.

    Returns:
        Tensor: Bool mask, ``[channels]``.
    """
    sizes = group.bincount(minlength=len(floors)).tolist()
    # Of equal ones the first stays, as in every other order here.
    rank = segments(sizes, margin.device).ranks(margin, descending=True)
    return rank < torch.tensor(floors, device=group.device)[group]


def reachable(
    cost: Callable[[Tensor], Tensor],
    ranking: Tensor,
    group: Tensor,
    floors: Sequence[int],
    divisor: int | Sequence[int] = 1,
) -> float:
    """Least value of a cost that pruning can reach.

    Args:
        cost (Callable): Kept channels on the CPU to the cost.
        ranking (Tensor): The larger, the longer kept; ``[channels]``.
        group (Tensor): Group of every channel, ``[channels]``.
        floors (Sequence[int]): Fewest channels to keep, per group.
        divisor (int or Sequence[int]): See :func:`snap`. Defaults to 1.
    """
    parts = chunks(ranking.cpu(), group.cpu(), floors, divisor)
    mask = floor_mask(parts.margin, parts.group, parts.floors)
    return float(cost(mask[parts.owner].double()))


def first_fitting(
    budget: Budget,
    ranking: Tensor,
    group: Tensor,
    floors: Sequence[int],
) -> Tensor:
    """Keeps as many of the highest ranked channels as fit, and the floors.

    A search asks for a cost again and again: it runs on the CPU, where that
    waits for nobody.

    Args:
        budget (Budget): What may be spent.
        ranking (Tensor): The larger, the longer kept; ``[channels]``.
        group (Tensor): Group of every channel, ``[channels]``.
        floors (Sequence[int]): Fewest channels to keep, per group.

    Returns:
        Tensor: Bool mask, ``[channels]``; the floors alone if not even they
        fit.
    """
    device, ranking = ranking.device, ranking.cpu()
    floor = floor_mask(ranking, group.cpu(), floors)
    order = ranking.argsort(descending=True, stable=True)
    mask = _bisect(lambda mask: budget.used(mask.double()), order, floor)
    return mask.to(device)


def snap(
    budget: Budget,
    ranking: Tensor,
    group: Tensor,
    floors: Sequence[int],
    divisor: int | Sequence[int] = 1,
    enough: float = 0.99,
) -> Tensor:
    """Finds the largest network within a budget.

    Bisection on a common offset of the ranking gives the last network that
    fits; channels just below the offset are then added one by one while
    they still fit, since one channel of a wide group can be worth more than
    the tolerance. Where that uses less than is enough, a search over the
    numbers of kept channels looks for a network near this one that uses more
    (``exchange.py``).

    Args:
        budget (Budget): Never to be exceeded.
        ranking (Tensor): The larger, the longer kept; ``[channels]``.
        group (Tensor): Group of every channel, ``[channels]``.
        floors (Sequence[int]): Fewest channels to keep, per group.
        divisor (int or Sequence[int]): What the number of kept channels of
            a group is a multiple of, unless all are kept; of all groups, or
            of each. Defaults to 1.
        enough (float): Share of the budget to use where some network does.
            Defaults to 0.99.

    Returns:
        Tensor: Bool mask, ``[channels]``.

    Raises:
        PruningError: If the budget lies below what must be kept.
    """
    device = ranking.device
    parts = chunks(ranking.cpu(), group.cpu(), floors, divisor)
    margin, group = parts.margin, parts.group

    def used(mask: Tensor) -> float:
        # [chunks] -> [channels]: a chunk stays or goes as a whole.
        return budget.used(mask[parts.owner].double())

    floor = floor_mask(margin, group, parts.floors)
    lowest = used(floor)
    if lowest > 1:
        raise PruningError(
            'the budget lies below the reachable minimum, which is '
            f'{lowest:.4f} times as much'
        )
    order = margin.argsort(descending=True, stable=True)
    mask = _fill(used, _bisect(used, order, floor), order, group)
    if used(mask) < enough:
        mask = exchange(used, mask, group, parts.floors, enough)
        mask = _fill(used, mask, order, group)
    return mask[parts.owner].to(device)


def _bisect(
    used: Callable[[Tensor], float], order: Tensor, floor: Tensor
) -> Tensor:
    """The longest beginning of an order that fits, with the floors."""
    # Costs do not fall when channels come back, so that all beginnings up
    # to some length fit and no longer one does. `low` always fits, or is 0.
    low, high = 0, len(order)
    while low < high:
        # Rounded up, so that low grows where the middle fits.
        middle = (low + high + 1) // 2
        if used(_first(order, middle) | floor) <= 1:
            low = middle
        else:
            high = middle - 1
    return _first(order, low) | floor


def _fill(
    used: Callable[[Tensor], float],
    mask: Tensor,
    order: Tensor,
    group: Tensor,
) -> Tensor:
    """Adds channels in order while they fit, of each group the best ones."""
    mask, closed, groups = mask.clone(), set(), group.tolist()
    # `mask` fits, and every step is undone unless it fits too. Those outside,
    # best first. A group whose best one does not fit is closed: the next of
    # it costs as much. What costs nothing comes back however little is left:
    # kernels compute 16 channels in the time of 9.
    for channel in order[~mask[order]].tolist():
        if groups[channel] in closed:
            continue
        mask[channel] = True
        if used(mask) > 1:
            mask[channel] = False
            closed.add(groups[channel])
    return mask


def _first(order: Tensor, count: int) -> Tensor:
    """Mask of the first entries of an order, shape of ``order``."""
    mask = torch.zeros_like(order, dtype=torch.bool)
    mask[order[:count]] = True
    return mask
