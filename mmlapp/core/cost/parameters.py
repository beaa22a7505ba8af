# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The number of stored parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..trace import LayerCall
from .base import CostContext, register_cost
from .multilinear import MultilinearCost, Term, term_of


def weight(call: LayerCall) -> int:
    """The weight alone: branches have no bias."""
    return math.prod(call.weight)


def bias(call: LayerCall) -> int:
    """A shift for every output."""
    return call.weight[0]


def affine(call: LayerCall) -> int:
    """Scale and shift."""
    return 2 * call.weight[0]


# What a branch stores, by the operator of its call.
HANDLES: dict[str, Callable[[LayerCall], int]] = {
    'convolution': weight,
    'product': weight,
    'norm': affine,
    'bias': bias,
}


@register_cost('parameters')
class Parameters(MultilinearCost):
    """Elements of all parameters, as ``sum(p.numel())`` counts them.

    Counted by tensor, not by call: a layer that is called twice is stored
    once, and some parameters belong to no layer.

    Args:
        context (CostContext): Parameters, branches and groups.
    """

    def __init__(self, context: CostContext) -> None:
        own = [
            Term(
                tensor.name.rpartition('.')[0],
                math.prod(tensor.shape),
                # If out and in of [out, in, 3, 3] shrink, the constant is 9.
                tuple(tensor.dims.values()),
            )
            for tensor in context.tensors
        ]
        # One that runs twice is listed twice, under one name.
        stored = (*context.branch_calls, *context.idle_calls)
        branches = {call.name: call for call in stored}
        added = [
            term_of(call, HANDLES[call.op](call)) for call in branches.values()
        ]
        super().__init__(
            [*own, *added], context.groups, sum(term.dense for term in own)
        )
