# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The control that is another tool: L1 in one shot, by Torch-Pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .cost import flops


def prune_once(
    model: nn.Module, target: float, alike: bool = False
) -> nn.Module:
    """Prunes a copy of a network by the L1 norms of its filters.

    The largest network within the target that Torch-Pruning's own rounding
    gives, found by halving.

    Args:
        model (nn.Module): The network.
        target (float): Fraction of its FLOPs.
        alike (bool): Whether every group loses the same share, instead of
            the least channels of all. Defaults to False.
    """
    limit = target * flops(model)
    return largest_within(
        lambda ratio: _pruned(model, ratio, alike), flops, limit
    )


def largest_within(
    prune: Callable[[float], nn.Module],
    cost: Callable[[nn.Module], float],
    limit: float,
) -> nn.Module:
    """The network of the least ratio that is within a limit, by halving.

    Args:
        prune (Callable): From the removed share to a network.
        cost (Callable): Of a network.
        limit (float): What it may cost.
    """
    low, high, best = 0.0, 1.0, None
    # To a thousandth of the ratio; the network moves in whole channels.
    for _ in range(10):
        ratio = (low + high) / 2
        found = prune(ratio)
        if cost(found) > limit:
            low = ratio
        else:
            high, best = ratio, found
    assert best is not None, 'no ratio is within the target'
    return best


def _pruned(model: nn.Module, ratio: float, alike: bool) -> nn.Module:
    # Needed by this one row, and no requirement of the project.
    import torch_pruning

    found: Any = copy.deepcopy(model).eval()
    example = torch.zeros(1, 3, 32, 32, device=next(model.parameters()).device)
    torch_pruning.pruner.MagnitudePruner(
        found,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=ratio,
        global_pruning=not alike,
        # Its outputs are the classes.
        ignored_layers=[found.fc],
    ).step()
    return found.train()
