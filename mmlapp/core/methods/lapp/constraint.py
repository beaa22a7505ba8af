# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The constraint on the cost: one shift of all thresholds meets it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...pruner import Pruner


def common_shift(
    pruner: Pruner,
    threshold: Tensor,
    bounds: tuple[Tensor, Tensor],
    free: Tensor,
) -> Tensor:
    r"""Shifts thresholds by one number, so that the cost meets its target.

    .. math:: t_g \leftarrow \min(\max(t_g + c,\ l_g),\ u_g), \quad
              |\log F(t) / F^*| \to \min_c

    The cost falls in steps as c grows, one wherever a threshold passes a
    score: a bisection over the steps finds the smallest network that does
    not fit and the largest that does, and the nearer one is taken.

    Args:
        pruner (Pruner): Its scores, costs and the targets of this step.
        threshold (Tensor): One per group, ``[groups]``.
        bounds (tuple[Tensor, Tensor]): Lowest and highest thresholds, each
            ``[groups]``.
        free (Tensor): Which ones are shifted, bool ``[groups]``.

    Returns:
        Tensor: The thresholds within their bounds, ``[groups]``.
    """
    device, group = threshold.device, pruner.host_parts.owner
    # All that the search needs comes to the CPU at once; there it may ask
    # for a cost again and again without waiting for a GPU.
    groups, scores = len(threshold), pruner.scores
    found = torch.cat([threshold, *bounds, free.to(threshold.dtype), scores])
    threshold, low, high, chosen, scores = found.cpu().split(
        [groups] * 4 + [len(scores)]
    )
    free = chosen > 0
    threshold = torch.minimum(torch.maximum(threshold, low), high)
    margin = scores - threshold[group]
    shifts = _shifts(margin[free[group]])
    budget = pruner.budget(pruner.targets())

    def shifted(step: int) -> Tensor:
        moved = threshold + torch.where(free, shifts[step], 0)
        return torch.minimum(torch.maximum(moved, low), high)

    def used(step: int) -> float:
        mask = scores > shifted(step)[group]
        return budget.used(mask.double())

    # Where no shift stands between the others: the search begins there.
    last = len(shifts) - 1
    start = min(int(torch.searchsorted(shifts, 0)), last)
    return shifted(_nearest(used, start, last)).to(device)


def _shifts(margin: Tensor) -> Tensor:
    """One shift between any two margins that follow, and one outside each."""
    values = margin.unique()
    if not len(values):
        return margin.new_zeros(1)
    # Margins -1 1 2: below -1 no channel of the free groups goes, between
    # -1 and 1 one does, ..., above 2 all that may go.
    between = (values[:-1] + values[1:]) / 2
    return torch.cat([values[:1] - 1, between, values[-1:] + 1])


def _nearest(used: Callable[[int], float], start: int, last: int) -> int:
    """The step whose use, which never rises, comes nearest to one."""
    used = cache(used)
    # Doubled strides from the start: in a long phase the way is short.
    low, high, stride = start, start, 1
    while high < last and used(high) > 1:
        low, high, stride = high, min(high + stride, last), 2 * stride
    stride = 1
    while low > 0 and used(low) <= 1:
        low, high, stride = max(low - stride, 0), low, 2 * stride
    # `high` fits or is the last one; `low` does not, or is the first.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if used(middle) <= 1 else (middle, high)
    return min(low, high, key=lambda step: abs(used(step) - 1))
