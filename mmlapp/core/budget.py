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
    the tolerance.

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
    floor = floor_mask(margin, group, floors)
    lowest = float(flops(floor.double()))
    if lowest > budget:
        raise PruningError(
            f'the budget of {budget:.4g} FLOPs lies below the reachable '
            f'minimum of {lowest:.4g}'
        )

    def fits(mask: Tensor) -> bool:
        return float(flops(mask.double())) <= budget

    order = margin.argsort(descending=True, stable=True)
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(_first(order, middle) | floor):
            low = middle
        else:
            high = middle - 1
    mask = _first(order, low) | floor
    for channel in order[low:].tolist():
        if not mask[channel]:
            mask[channel] = True
            if not fits(mask):
                mask[channel] = False
        if float(flops(mask.double())) > 0.999 * budget:
            break
    return mask


def _first(order: Tensor, count: int) -> Tensor:
    mask = torch.zeros_like(order, dtype=torch.bool)
    mask[order[:count]] = True
    return mask
