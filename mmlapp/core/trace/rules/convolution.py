# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Convolution, grouped and transposed ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..call import Call
from ..graph import NO_CHANNEL
from ..labels import Axis, Labels, without_zero
from ..record import INPUT_REASON
from ..rule import rules_of_aten
from ..tracer import Tracer
from .layer import check_zero, emit, ids_of, note_call

DYNAMIC = 'multiplied by a weight that the network computes'
ALONG = 'convolved along its channels'


def convolution(tracer: Tracer, call: Call) -> None:
    """Ties input channels to the weight's input side, emits its output side.

    Grouped convolutions keep equal parts: either whole groups go, or the
    same positions of every group, whichever leaves the finer choice.
    """
    x, weight, bias, stride, padding, dilation = call.args[:6]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    convolve(
        tracer,
        x,
        weight,
        bias,
        call.outputs()[0],
        groups,
        transposed,
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
    )


def convolve(
    tracer: Tracer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    groups: int,
    transposed: bool = False,
    **geometry: Any,
) -> None:
    """What every kind of convolution has in common.

    Args:
        tracer (Tracer): Receives ties, labels and multiply-adds.
        x (Tensor): Input.
        weight (Tensor): Filters.
        bias (Tensor, optional): One number per output channel.
        out (Tensor): Result.
        groups (int): Number of groups.
        transposed (bool): Whether the filters' first dimension is the
            input's. Defaults to False.
        **geometry (Any): Stride, padding and dilation, for costs.
    """
    read, kernel = tracer.labels(x), tracer.labels(weight)
    if not kernel.parameter:
        for labels in (read, kernel):
            tracer.freeze(labels, DYNAMIC)
    entered = ids_of(read, 1, x.shape[1])
    emitted, consumed = _sides(weight, kernel, groups, transposed)
    dims = {'out': emitted}
    if groups == 1:
        tracer.graph.unite(entered, consumed, INPUT_REASON)
        dims['in'] = consumed
    elif transposed:
        tracer.freeze(read, 'read by a grouped transposed convolution')
        tracer.freeze(kernel, 'grouped transposed convolution')
        dims = {}
    elif _goes_by_groups(entered, groups):
        _whole_groups(tracer, weight, entered, emitted, groups)
        # in/g stays: out alone may shrink.
    else:
        _tied_groups(tracer, entered, emitted, consumed, groups)
        # [out] times [in/g], as many as the second dimension is long.
        dims['in'] = consumed
    passed = _passed(tracer, x, out, geometry)
    for dim, axis in passed.axes.items():
        dims['rows' if dim else 'batch'] = axis.ids
    note_call(
        tracer,
        'convolution',
        (x, weight, out),
        dims,
        groups=groups,
        transposed=transposed,
        **geometry,
    )
    check_zero(tracer, read.axes.get(1), kernel, int(not transposed))
    zero = kernel.masks_to_zero(int(transposed))
    emit(tracer, out, 1, Axis(emitted, zero), bias, without_zero(passed))
    if 0 in read.axes and groups > 1 and bool((entered < 0).all()):
        # Heads in the batch are filtered alike: what is as wide as one stays,
        # frozen above, and needs no labels beside those of heads.
        tracer.set(out, without_zero(passed))


def _sides(
    weight: Tensor, kernel: Labels, groups: int, transposed: bool
) -> tuple[Tensor, Tensor]:
    """Labels of what a weight emits, ``[out]``, and of its input side.

    It is ``[out, in/g, ..]``, of a transposed convolution ``[in, out/g, ..]``.
    """
    first = ids_of(kernel, 0, weight.shape[0])
    second = ids_of(kernel, 1, weight.shape[1])
    if not transposed:
        return first, second
    # Each of out/g is there for every group: blank labels emit then.
    blank = torch.full((weight.shape[1] * groups,), NO_CHANNEL)
    return second if groups == 1 else blank, first


def _passed(
    tracer: Tracer, x: Tensor, out: Tensor, geometry: Mapping[str, Any]
) -> Labels:
    """Labels of channels beside those of the layer, which it leaves free.

    Such as were moved into the batch, ``[batch * C, 1, ..]``, and such as lie
    in a row, ``[batch, 1, C]``: of any number as many come out.
    """
    read, passed = tracer.labels(x), Labels()
    for dim, axis in read.axes.items():
        if dim == 0:
            passed.axes[dim] = axis
        elif dim > 1 and _keeps_size(x, out, dim, geometry):
            tracer.living.over(read, axis.ids, ALONG)
            passed.axes[dim] = axis
        elif dim > 1:
            tracer.graph.freeze(axis.ids, ALONG)
    return passed


def _keeps_size(
    x: Tensor, out: Tensor, dim: int, geometry: Mapping[str, Any]
) -> bool:
    """Whether as many positions come out along a dimension as go in."""
    stride = geometry.get('stride', (0,) * dim)
    return x.shape[dim] == out.shape[dim] and stride[dim - 2] == 1


def _goes_by_groups(entered: Tensor, groups: int) -> bool:
    """Whether whole groups go, and not the same positions of every group.

    Channels ``[in]`` are seen as ``[g, in/g]``, one row for each group. Tied
    groups (the same columns of every row go) leave in/g choices and keep g;
    whole groups (a row goes, with its outputs) leave g choices and keep in/g.
    With more rows than columns the finer choice is by rows. So is the only one
    where each row is one channel, perhaps all its pixels.
    """
    return groups > len(entered) // groups or _uniform(entered, groups)


def _uniform(entered: Tensor, groups: int) -> bool:
    """Whether each group reads one channel only, perhaps all its pixels."""
    # [in] as [g, in/g]: every row of one label only, and none without.
    pieces = entered.view(groups, -1)
    same = (pieces == pieces[:, :1]) & (pieces != NO_CHANNEL)
    return bool(same.all())


def _whole_groups(
    tracer: Tracer,
    weight: Tensor,
    entered: Tensor,
    emitted: Tensor,
    groups: int,
) -> None:
    """A group's inputs and outputs go together, with the group itself."""
    # [g, in/g] and [g, out/g]. The first output of a row stands for it: with
    # it go the row's outputs, its inputs, and one of the g units of the
    # attribute ``groups``. Depthwise with 4 inputs and 8 outputs: row c is the
    # input c with the outputs 2 c and 2 c + 1.
    inputs, outputs = entered.view(groups, -1), emitted.view(groups, -1)
    heads = outputs[:, :1]
    tracer.graph.unite(heads, outputs, INPUT_REASON)
    tracer.graph.unite(heads, inputs, INPUT_REASON)
    # An attribute has no tensor to be narrowed by. It gets g nodes as if it
    # had one: how many of them live is its value afterwards. Where code gives
    # the number itself, the attribute of its module may be that of others.
    for site in tracer.sites_of(emitted):
        name = f'{site.module}.groups'
        if tracer.attribute(name) not in (None, groups):
            continue
        site = tracer.site(name, 0, groups, attribute=True)
        nodes = torch.arange(site.start, site.start + groups)
        tracer.graph.unite(heads[:, 0], nodes, INPUT_REASON)


def _tied_groups(
    tracer: Tracer,
    entered: Tensor,
    emitted: Tensor,
    consumed: Tensor,
    groups: int,
) -> None:
    """The same positions go in every group; the number of groups stays."""
    # [g, in/g] with [1, in/g], the weight's second dimension, which all groups
    # share: column j goes in all. Outputs [g, out/g] lose the same columns of
    # every row, so that groups stay equally large. With 8 inputs in 2 groups
    # [0, 1, 2, 3], [4, 5, 6, 7], input c goes with input c + 4.
    inputs, outputs = entered.view(groups, -1), emitted.view(groups, -1)
    tracer.graph.unite(inputs, consumed[None], INPUT_REASON)
    tracer.graph.unite(outputs, outputs[:1], INPUT_REASON)


RULES = rules_of_aten(
    {convolution: 'convolution _convolution mkldnn_convolution'}
)
