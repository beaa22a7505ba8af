# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of convolutions, linear layers and matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..trace import LayerCall
from .base import CostContext, register_cost
from .multilinear import MultilinearCost, term_of


def convolution(call: LayerCall) -> int:
    """Each weight meets every position of the output once.

    Of a transposed convolution every position of the input.
    """
    shape = call.inputs if call.geometry.get('transposed') else call.outputs
    # [batch, channels, ...]: all but the channels.
    # [n, out, h, w] by [out, in / groups, kh, kw]:
    # n h w times out * in / groups * kh * kw.
    positions = math.prod(shape) // shape[1]
    return positions * math.prod(call.weight)


def product(call: LayerCall) -> int:
    """[..., row, in] times [..., in, out]: each input meets each column."""
    # [2, 5, 3] times [2, 3, 4]: 30 inputs, 4 columns, 120.
    return math.prod(call.inputs) * call.weight[-1]


# What an operator costs; one without a row costs nothing.
HANDLES: dict[str, Callable[[LayerCall], int]] = {
    'convolution': convolution,
    'product': product,
}


def multiply_adds(call: LayerCall) -> int:
    """Returns the multiply-adds of one call with all channels.

    Args:
        call (LayerCall): The call.
    """
    handle = HANDLES.get(call.op)
    return 0 if handle is None else handle(call)


@register_cost('flops')
class Flops(MultilinearCost):
    """Multiply-adds as fvcore counts them; one is one FLOP.

    Those of recurrent layers, which it leaves out, are counted too.

    Args:
        context (CostContext): Calls and groups.
    """

    def __init__(self, context: CostContext) -> None:
        calls = [c for c in context.calls if c.op in HANDLES]
        added = [c for c in context.branch_calls if c.op in HANDLES]
        super().__init__(
            [term_of(c, multiply_adds(c)) for c in (*calls, *added)],
            context.groups,
            sum(map(multiply_adds, calls)),
        )
