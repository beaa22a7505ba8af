# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution: the operator of torchvision."""

from __future__ import annotations

from typing import Any

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
    stride, padding, dilation = (
        tuple(call.args[i : i + 2]) for i in (5, 7, 9)
    )
    groups, offset_groups, masked = call.args[11:14]
    deform(
        tracer,
        x,
        weight,
        bias,
        (offset, mask),
        int(groups),
        int(offset_groups),
        call.outputs()[0],
        stride=stride,
        padding=padding,
        dilation=dilation,
        masked=bool(masked),
        operator='torchvision',
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
    **geometry: Any,
) -> None:
    """Offsets stay; each offset group keeps as many channels as others.

    Args:
        tracer (Tracer): Receives ties, labels and multiply-adds.
        x (Tensor): Input.
        weight (Tensor): Filters.
        bias (Tensor, optional): One number per output channel.
        places (tuple[Tensor or None, ...]): Offsets, and factors if any.
        groups (int): Of the convolution.
        offset_groups (int): Fields of offsets.
        out (Tensor): Result.
        **geometry (Any): Stride, padding and dilation, whether there are
            factors, and whose operator it is, for costs.
    """
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
    convolve(
        tracer,
        x,
        weight,
        bias,
        out,
        groups,
        offset_groups=offset_groups,
        **geometry,
    )


RULES = {'torchvision::deform_conv2d': Rule(torchvision_operator)}
