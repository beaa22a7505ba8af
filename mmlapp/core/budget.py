# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The exact budget at the end of the pruning phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import PruningError


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
) -> float:
    """Fewest multiply-adds that pruning can reach."""
    return float(flops(floor_mask(margin, group, floors).double()))


def snap(
    flops: Callable[[Tensor], Tensor],
    margin: Tensor,
    group: Tensor,
    floors: Sequence[int],
    budget: float,
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

    Returns:
        Tensor: Bool mask, ``[channels]``.

    Raises:
        PruningError: If the budget lies below what must be kept.
    """

    def cost(mask: Tensor) -> float:
        return float(flops(mask.double()))

    floor = floor_mask(margin, group, floors)
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
    mask = _fill(cost, _first(order, low) | floor, order, budget)
    if cost(mask) < 0.99 * budget:
        mask = _exchange(cost, mask, margin, group, floor, budget)
        mask = _fill(cost, mask, order, budget)
    return mask


def _fill(
    cost: Callable[[Tensor], float], mask: Tensor, order: Tensor, budget: float
) -> Tensor:
    """Adds channels in order while they fit."""
    mask = mask.clone()
    for channel in order[~mask[order]].tolist():
        if cost(mask) > 0.999 * budget:
            break
        mask[channel] = True
        if cost(mask) > budget:
            mask[channel] = False
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
