# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms and complex numbers."""

from __future__ import annotations

from dataclasses import replace

from ..call import Call
from ..labels import Axis
from ..rule import rules_of_aten
from ..tracer import Tracer
from .movement import copied

ALONG = 'transformed along its channels by {}'
PARTS = 'real and imaginary part of a number'


def transformed(tracer: Tracer, call: Call) -> None:
    """fft: other dimensions stay, and the transform of zeros is zero."""
    source = call.args[0]
    over = {dim % source.dim() for dim in call.args[1]}
    labels = tracer.labels(source)
    kept: dict[int, Axis] = {}
    for dim, axis in labels.axes.items():
        if dim in over:
            tracer.graph.freeze(axis.ids, ALONG.format(call.op))
        else:
            kept[dim] = axis
    tracer.set(call.outputs()[0], replace(labels.moved(kept), constant=None))


def paired(tracer: Tracer, call: Call) -> None:
    """view_as_complex, view_as_real: the last dimension of two comes, goes."""
    source = call.args[0]
    labels = tracer.labels(source)
    axes = dict(labels.axes)
    if call.op == 'aten::view_as_complex':
        pair = axes.pop(source.dim() - 1, None)
        if pair is not None:
            tracer.graph.freeze(pair.ids, PARTS)
        # It may be both of its parts.
        labels = replace(labels, constant=None)
    tracer.set(call.outputs()[0], labels.moved(axes))


RULES = rules_of_aten(
    {
        transformed: '_fft_r2c _fft_c2r _fft_c2c',
        paired: 'view_as_complex view_as_real',
        copied: '_conj _conj_physical resolve_conj',
    }
)
