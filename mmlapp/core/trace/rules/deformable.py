# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution, of MMCV by name and of torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..call import Call
from ..labels import tie_pieces
from ..tracer import Tracer
from .convolution import convolve

OFFSET = 'tells a deformable convolution where to read'


def mmcv_function(
    tracer: Tracer, arguments: Mapping[str, Any], out: Tensor
) -> None:
    """``(Modulated)DeformConv2dFunction.forward`` of MMCV."""
    bias = arguments.get('bias')  # False says none
    _deformable(
        tracer,
        arguments['input'],
        arguments['weight'],
        bias if isinstance(bias, Tensor) else None,
        (arguments['offset'], arguments.get('mask')),
        int(arguments['groups']),
        int(arguments['deform_groups']),
        out,
    )


def torchvision_operator(tracer: Tracer, call: Call) -> None:
    """deform_conv2d(input, weight, offset, mask, bias, ...)."""
    x, weight, offset, mask, bias = call.args[:5]
    groups, offset_groups = call.args[11:13]
    _deformable(
        tracer,
        x,
        weight,
        bias,
        (offset, mask),
        int(groups),
        int(offset_groups),
        call.outputs()[0],
    )


def _deformable(
    tracer: Tracer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    places: tuple[Tensor | None, ...],
    groups: int,
    offset_groups: int,
    out: Tensor,
) -> None:
    """Offsets stay; each offset group keeps as many channels as others."""
    for place in places:
        if place is not None:
            tracer.freeze(tracer.labels(place), OFFSET)
            tracer.note_reader(tracer.labels(place), is_norm=False)
    axis = tracer.labels(x).axes.get(1)
    if axis is not None and offset_groups > 1:
        tie_pieces(tracer.graph, axis, x.shape[1] // offset_groups)
    tracer.note_reader(tracer.labels(x), is_norm=False)
    convolve(tracer, x, weight, bias, out, groups)


FUNCTIONS: dict[str, Callable[[Tracer, Mapping[str, Any], Any], None]] = {
    'DeformConv2dFunction': mmcv_function,
    'ModulatedDeformConv2dFunction': mmcv_function,
}
RULES = {'torchvision::deform_conv2d': torchvision_operator}
