# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a channel costs beside those that live, and importance per cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..choices import Choices

if TYPE_CHECKING:
    from ..pruner import Pruner

# Multiply-adds, or elements, in which the softmax counts.
MILLION = 1e6


@torch.enable_grad()
def channel_costs(pruner: Pruner, name: str | None = None) -> Tensor:
    """Gradient of the logarithm of a cost by the gate, ``[channels]``.

    Args:
        pruner (Pruner): Of the network.
        name (str, optional): Of the cost. Defaults to None: the one that
            binds.
    """
    # At the network that lives: what shrinks costs nothing more.
    gate = pruner.decided.requires_grad_()
    ratio = pruner.cost(name or pruner.binding_cost()).ratio(gate)
    (gradient,) = torch.autograd.grad(ratio.log(), gate)
    return gradient


def size_of(cost: Tensor) -> Tensor:
    """Never so small that what costs nothing rules all the rest.

    Args:
        cost (Tensor): Of any shape.
    """
    size = cost.abs()
    return torch.maximum(size, 1e-3 * size.amax() + 1e-30)


CostTerm = Callable[['Pruner', Tensor], Tensor]
COST_TERMS: Choices[CostTerm] = Choices('method cost')


@COST_TERMS.register('divide')
def per_cost(pruner: Pruner, importance: Tensor) -> Tensor:
    r"""Importance per unit of cost, :math:`s_i / c_i`.

    :math:`c_i = \partial \log F / \partial m_i` is the share of the cost
    that the channel takes beside those that live.

    Args:
        pruner (Pruner): Of the network.
        importance (Tensor): Not negative, ``[channels]``.
    """
    return importance / size_of(channel_costs(pruner))


@COST_TERMS.register('divide_all')
def per_costs(pruner: Pruner, importance: Tensor) -> Tensor:
    r"""Importance over the product of all costs that are counted.

    After CPMC (arXiv 2011.03240), which weighs computation and parameters;
    the formula is ours: :math:`s_i / \prod_k c_{ki}` with the share
    :math:`c_{ki}` of cost k that the channel takes.

    Args:
        pruner (Pruner): Of the network.
        importance (Tensor): Not negative, ``[channels]``.
    """
    for name in pruner.costs:
        importance = importance / size_of(channel_costs(pruner, name))
    return importance


@COST_TERMS.register('softmax')
def less_softmax(pruner: Pruner, importance: Tensor) -> Tensor:
    r"""Importance of what is dear made less (OCSPruner, arXiv 2501.13439).

    :math:`s_i (1 - \mathrm{softmax}_g(c_g))` with the cost :math:`c_g` of a
    channel of group g beside those that live, in millions. Between groups
    whose channels cost far less than a million it hardly decides.

    Args:
        pruner (Pruner): Of the network.
        importance (Tensor): Not negative, ``[channels]``.
    """
    name = pruner.binding_cost()
    total = pruner.cost(name)(pruner.decided)
    # d F = F d log F; the mean over each group, [channels] -> [groups].
    each = channel_costs(pruner) * total / MILLION
    mean = pruner.parts.mean(each)
    return importance * (1 - mean.softmax(0)[pruner.group])
