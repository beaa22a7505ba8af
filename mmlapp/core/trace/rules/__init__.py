# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The table from operator to rule, one file per kind of operator."""

from __future__ import annotations

import torch

from ..call import Call
from ..rule import Rule
from ..torch_functions import VALUE
from ..tracer import Tracer
from . import (
    along,
    convolution,
    deformable,
    embedding,
    movement,
    norms,
    pointwise,
    products,
    reduction,
    regions,
    spectral,
)

RULES: dict[str, Rule] = {
    **along.RULES,
    **convolution.RULES,
    **deformable.RULES,
    **embedding.RULES,
    **movement.RULES,
    **norms.RULES,
    **pointwise.RULES,
    **products.RULES,
    **reduction.RULES,
    **regions.RULES,
    **spectral.RULES,
}


def _fallback(tracer: Tracer, call: Call) -> None:
    """Rule of every operator without a row: pointwise, or frozen."""
    if not call.outputs():
        # equal, allclose, item, ...: what Python does next depends on it.
        for tensor in call.tensors():
            tracer.freeze_read(tensor, call.op, VALUE)
        return
    if torch.Tag.pointwise in call.func.tags:
        pointwise.pointwise(tracer, call)
        return
    for tensor in call.tensors():
        tracer.freeze_read(tensor, call.op)


FALLBACK = Rule(_fallback)
