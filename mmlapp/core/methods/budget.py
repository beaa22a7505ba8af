# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The exact budget at the end of the pruning phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PruningError


@dataclass(frozen=True)
class Chunks:
    """Channels of a group that stay or go together, the best ones first.

    Args:
        owner (Tensor): Chunk of every channel, ``[channels]``.
        margin (Tensor): Mean score minus threshold, ``[chunks]``.
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
        PruningError: If it is no whole number from 1 on.
    """
    if not isinstance(divisor, int) or divisor < 1:
        raise PruningError(
            f'divisor={divisor!r}: expected a whole number from 1 on'
        )
    return divisor


def chunks(
    margin: Tensor, group: Tensor, floors: Sequence[int], divisor: int
) -> Chunks:
    """Makes chunks of ``divisor`` channels; the last of a group may be less.

    Args:
        margin (Tensor): Score minus threshold, shape ``[channels]``.
        group (Tensor): Group of every channel, ``[channels]``.
        floors (Sequence[int]): Fewest channels to keep, per group.
        divisor (int): Channels of a chunk.

    Returns:
        Chunks: Channel by channel if ``divisor`` is 1.
    """
    owner, groups, count = torch.empty_like(group), [], 0
    for g in range(len(floors)):
        index = (group == g).nonzero()[:, 0]
        best = index[margin[index].argsort(descending=True, stable=True)]
        rank = torch.arange(len(best), device=best.device)
        owner[best] = count + rank // divisor
        groups += [g] * -(-len(best) // divisor)
        count = len(groups)
    total = margin.new_zeros(count).index_add(0, owner, margin)
    return Chunks(
        owner,
        total / owner.bincount(minlength=count),
        torch.tensor(groups, device=group.device),
        [-(-floor // divisor) for floor in floors],
    )


def floor_mask(margin: Tensor, group: Tensor, floors: Sequence[int]) -> Tensor:
    """Keeps each group's best channels up to its floor.

    Args:
        margin (Tensor): Score minus threshold, shape ``[channels]``.
        group (Tensor): Group of every channel, ``[channels]``.
        floors (Sequence[int]): Fewest channels to keep, per group.

    Returns:
        Tensor: Bool mask, ``[channels]``.
    """
    keep = torch.zeros_like(group, dtype=torch.bool)
    for g, floor in enumerate(floors):
        index = (group == g).nonzero()[:, 0]
        keep[index[margin[index].topk(floor).indices]] = True
    return keep


def reachable(
    flops: Callable[[Tensor], Tensor],
    margin: Tensor,
    group: Tensor,
    floors: Sequence[int],
    divisor: int = 1,
) -> float:
    """Fewest multiply-adds that pruning can reach."""
    parts = chunks(margin, group, floors, divisor)
    mask = floor_mask(parts.margin, parts.group, parts.floors)
    return float(flops(mask[parts.owner].double()))


def snap(
    flops: Callable[[Tensor], Tensor],
    margin: Tensor,
    group: Tensor,
    floors: Sequence[int],
    budget: float,
    divisor: int = 1,
) -> Tensor:
    """Finds the largest network within a budget.

    Bisection on a common offset of all thresholds gives the last network
    that fits; channels just below the offset are then added one by one while
    they still fit, since one channel of a wide group can be worth more than
    the tolerance. Where that leaves more than a hundredth of the budget, one
    more channel of some group takes the place of the least of others.

    Args:
        flops (Callable): Mask to multiply-adds.
        margin (Tensor): Score minus threshold, shape ``[channels]``.
        group (Tensor): Group of every channel, ``[channels]``.
        floors (Sequence[int]): Fewest channels to keep, per group.
        budget (float): Multiply-adds never to exceed.
        divisor (int): What the number of kept channels of a group is a
            multiple of, unless all are kept. Defaults to 1.

    Returns:
        Tensor: Bool mask, ``[channels]``.

    Raises:
        PruningError: If the budget lies below what must be kept.
    """
    parts = chunks(margin, group, floors, divisor)
    margin, group = parts.margin, parts.group

    def cost(mask: Tensor) -> float:
        return float(flops(mask[parts.owner].double()))

    floor = floor_mask(margin, group, parts.floors)
    lowest = cost(floor)
    if lowest > budget:
        raise PruningError(
            f'the budget of {budget:.4g} FLOPs lies below the reachable '
            f'minimum of {lowest:.4g}'
        )
    order = margin.argsort(descending=True, stable=True)
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        if cost(_first(order, middle) | floor) <= budget:
            low = middle
        else:
            high = middle - 1
    mask = _fill(cost, _first(order, low) | floor, order, group, budget)
    if cost(mask) < 0.99 * budget:
        mask = _exchange(cost, mask, margin, group, floor, budget)
        mask = _fill(cost, mask, order, group, budget)
    return mask[parts.owner]


def _fill(
    cost: Callable[[Tensor], float],
    mask: Tensor,
    order: Tensor,
    group: Tensor,
    budget: float,
) -> Tensor:
    """Adds channels in order while they fit, of each group the best ones."""
    mask, closed, used = mask.clone(), set(), cost(mask)
    for channel in order[~mask[order]].tolist():
        if used > 0.999 * budget:
            break
        if int(group[channel]) in closed:
            continue
        mask[channel] = True
        more = cost(mask)
        if more <= budget:
            used = more
        else:
            mask[channel] = False
            closed.add(int(group[channel]))
    return mask


def _exchange(
    cost: Callable[[Tensor], float],
    mask: Tensor,
    margin: Tensor,
    group: Tensor,
    floor: Tensor,
    budget: float,
) -> Tensor:
    """The largest network after one exchange, or the one there was."""
    best = mask
    for g in group[~mask].unique():
        outside = margin.masked_fill(mask | (group != g), -torch.inf)
        tried = mask.clone()
        tried[outside.argmax()] = True
        spare = (mask & ~floor & (group != g)).nonzero()[:, 0]
        for channel in spare[margin[spare].argsort(stable=True)].tolist():
            if cost(tried) <= budget:
                break
            tried[channel] = False
        if cost(best) < cost(tried) <= budget:
            best = tried
    return best


def _first(order: Tensor, count: int) -> Tensor:
    mask = torch.zeros_like(order, dtype=torch.bool)
    mask[order[:count]] = True
    return mask
