# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution: the operator of torchvision."""

from __future__ import annotations

from torch import Tensor

from ..call import Call
from ..labels import tie_pieces
from ..rule import Rule
from ..tracer import Tracer
from .convolution import convolve

OFFSET = 'tells a deformable convolution where to read'


def torchvision_operator(tracer: Tracer, call: Call) -> None:
    """deform_conv2d(input, weight, offset, mask, bias, ...)."""
    x, weight, offset, mask, bias = call.args[:5]
    # 5 to 10 are stride, padding and dilation, each as height and width.
    groups, offset_groups = call.args[11:13]
    deform(
        tracer,
        x,
        weight,
        bias,
        (offset, mask),
        int(groups),
        int(offset_groups),
        call.outputs()[0],
    )


def deform(
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
    # Offsets are [N, 2 * fields * kh * kw, H, W], the mask is half as wide: a
    # pair of coordinates and one factor for each pixel that a filter reads.
    # Window and fields stay, hence all of them.
    for place in places:
        if place is not None:
            tracer.freeze(tracer.labels(place), OFFSET)
            tracer.note_reader(tracer.labels(place))
    axis = tracer.labels(x).axes.get(1)
    # [C] as [fields, C / fields]: the kernel divides C by the number of fields
    # of offsets, which stays; the same columns of every row go.
    if axis is not None and offset_groups > 1:
        tie_pieces(tracer.graph, axis, x.shape[1] // offset_groups)
    tracer.note_reader(tracer.labels(x))
    convolve(tracer, x, weight, bias, out, groups)


RULES = {'torchvision::deform_conv2d': Rule(torchvision_operator)}
