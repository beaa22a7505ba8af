# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Layers with parameters: convolution, matrix product, normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import Call
from ..graph import NO_CHANNEL
from ..labels import Axis, Labels, without_zero
from ..tracer import INPUT_REASON, FlopsTerm, Site, Tracer

DYNAMIC = 'multiplied by a weight that the network computes'


def convolution(tracer: Tracer, call: Call) -> None:
    """Ties input channels to the weight's input side, emits its output side.

    Grouped convolutions keep equal parts: either whole groups go, or the
    same positions of every group, whichever leaves the finer choice.
    """
    x, weight, bias = call.args[:3]
    transposed, groups = bool(call.args[6]), int(call.args[8])
    convolve(tracer, x, weight, bias, call.outputs()[0], groups, transposed)


def convolve(
    tracer: Tracer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    groups: int,
    transposed: bool = False,
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
    """
    read, kernel = tracer.labels(x), tracer.labels(weight)
    if not kernel.parameter:
        for labels in (read, kernel):
            tracer.freeze(labels, DYNAMIC)
    sides = _sides(tracer, weight, kernel, transposed)
    count = weight.shape[1] * groups if transposed else weight.shape[0]
    emitted, consumed = (
        sides
        if not transposed or groups == 1
        else (torch.full((count,), -1), sides[1])
    )
    entered = _ids(read, 1, x.shape[1])
    per_group = x.shape[1] // groups
    if groups == 1:
        tracer.graph.unite(entered, consumed, INPUT_REASON)
        factors: tuple[Tensor, ...] = (emitted, consumed)
    elif transposed:
        tracer.freeze(read, 'read by a grouped transposed convolution')
        tracer.freeze(kernel, 'grouped transposed convolution')
        factors = ()
    elif groups > per_group or _uniform(entered, groups):
        _whole_groups(tracer, weight, entered, emitted, groups)
        factors = (emitted,)
    else:
        _tied_groups(tracer, entered, emitted, consumed, groups)
        factors = (emitted, consumed)
    positions = (x if transposed else out).numel() // (
        x.shape[1] if transposed else out.shape[1]
    )
    flops = positions * weight.numel()
    if 0 in read.axes:
        factors = (*factors, read.axes[0].ids)
    _term(tracer, weight, flops, factors, kind='convolution')
    _check_zero(tracer, read.axes.get(1), kernel, int(not transposed))
    passed = Labels({d: a for d, a in read.axes.items() if d == 0})
    tracer.freeze(
        Labels({d: a for d, a in read.axes.items() if d > 1}),
        'convolved along its channels',
    )
    zero = kernel.masks_to_zero(int(transposed))
    _emit(tracer, out, 1, Axis(emitted, zero), bias, without_zero(passed))


def _sides(
    tracer: Tracer, weight: Tensor, kernel: Labels, transposed: bool
) -> tuple[Tensor, Tensor]:
    """Labels of the weight's output and input dimension."""
    first = _ids(kernel, 0, weight.shape[0])
    second = _ids(kernel, 1, weight.shape[1])
    return (second, first) if transposed else (first, second)


def _uniform(entered: Tensor, groups: int) -> bool:
    """Whether each group reads one channel only, perhaps all its pixels."""
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
    inputs, outputs = entered.view(groups, -1), emitted.view(groups, -1)
    heads = outputs[:, :1]
    tracer.graph.unite(heads, outputs, INPUT_REASON)
    tracer.graph.unite(heads, inputs, INPUT_REASON)
    for site in tracer.sites_of(emitted):
        name = f'{site.module}.groups'
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
    inputs, outputs = entered.view(groups, -1), emitted.view(groups, -1)
    tracer.graph.unite(inputs, consumed[None], INPUT_REASON)
    tracer.graph.unite(outputs, outputs[:1], INPUT_REASON)


def product(tracer: Tracer, call: Call) -> None:
    """mm, bmm: ties the contracted dimensions, passes the others on."""
    _product(tracer, call, call.args[0], call.args[1], None)


def product_with_bias(tracer: Tracer, call: Call) -> None:
    """addmm, baddbmm: a product plus a bias."""
    _product(tracer, call, call.args[1], call.args[2], call.args[0])


def _product(
    tracer: Tracer, call: Call, a: Tensor, b: Tensor, bias: Tensor | None
) -> None:
    out = call.outputs()[0]
    left, right = tracer.labels(a), tracer.labels(b)
    row, inner, column = a.dim() - 2, a.dim() - 1, b.dim() - 1
    entered, consumed = (
        _ids(left, inner, a.shape[inner]),
        _ids(right, row, b.shape[row]),
    )
    tracer.graph.unite(entered, consumed, INPUT_REASON)
    _check_zero(tracer, left.axes.get(inner), right, row)
    result = Labels()
    for dim, labels, source in ((row, left, row), (column, right, column)):
        if source in labels.axes:
            result.axes[dim] = labels.axes[source]
    if a.dim() == 3 and (0 in left.axes or 0 in right.axes):
        batch_ids = _ids(left, 0, a.shape[0])
        tracer.graph.unite(batch_ids, _ids(right, 0, b.shape[0]), INPUT_REASON)
        result.axes[0] = Axis(batch_ids, zero=False)
    factors = [consumed, _ids(right, column, b.shape[column])]
    factors += [result.axes[d].ids for d in {0, row} & set(result.axes)]
    batch = a.shape[0] if a.dim() == 3 else 1
    constant = batch * a.shape[row] * a.shape[inner] * b.shape[column]
    _term(tracer, b, constant, tuple(factors), call.op)
    if right.parameter and column in right.axes:
        del result.axes[column]
        if bias is not None:
            result = without_zero(result)
        made = Axis(right.axes[column].ids, right.masks_to_zero(column))
        _emit(tracer, out, column, made, bias, result)
    else:
        tracer.set(out, result)
        if bias is not None:
            tracer.freeze(tracer.labels(bias), 'added to a product')
            tracer.freeze(result, 'added to a product')


def _check_zero(
    tracer: Tracer, left: Axis | None, right: Labels, row: int
) -> None:
    """A contraction needs a zero on one of its sides."""
    other = right.axes.get(row)
    if left is None or other is None or left.zero or other.zero:
        return
    if right.maskable:
        tracer.trace.readers.update(tracer.sites_of(other.ids))
    else:
        tracer.graph.freeze(left.ids, 'contracted where it is not zero')


def attention(tracer: Tracer, call: Call) -> None:
    """Scaled dot product: query and key channels go together, value's pass.

    The scale is computed from the width of the query, which removal would
    change: query and key are frozen.
    """
    query, key, value = call.args[:3]
    for tensor in (query, key):
        tracer.freeze(tracer.labels(tensor), 'compared by attention')
    batch, heads, length, _ = query.shape
    axis = tracer.labels(value).axes.get(3)
    constant = batch * heads * length * key.shape[2]
    _term(tracer, query, constant * query.shape[3], (), f'{call.op}.query')
    _term(
        tracer,
        value,
        constant * value.shape[3],
        () if axis is None else (axis.ids,),
        f'{call.op}.value',
    )
    tracer.freeze(_others(tracer.labels(value), 3), 'mixed by attention')
    axes = {} if axis is None else {3: axis}
    tracer.set(call.outputs()[0], Labels(axes))


def batch_norm(tracer: Tracer, call: Call) -> None:
    """Ties every per-channel tensor; the affine part carries the mask."""
    x = call.args[0]
    axis = tracer.labels(x).axes.get(1)
    ids = _ids(tracer.labels(x), 1, x.shape[1])
    for tensor in call.args[1:5]:
        if tensor is not None:
            tracer.graph.unite(
                ids, _ids(tracer.labels(tensor), 0, x.shape[1]), INPUT_REASON
            )
    affine = [tracer.name(t) for t in call.args[1:3]]
    for name in affine:
        if name is not None:
            tracer.trace.masked.add(tracer.site(name, 0, x.shape[1]))
            tracer.link_norm(tracer.labels(x).maker, name)
    others = _others(tracer.labels(x), 1)
    batch = others.axes.pop(0, None)
    tracer.freeze(others, 'normalised over channels by batch_norm')
    axes = {} if axis is None else {1: Axis(ids, zero=None not in affine)}
    if batch is not None:
        axes[0] = Axis(batch.ids, zero=False)
    for output in call.outputs()[:1]:
        tracer.set(output, Labels(axes))


def over_channels(tracer: Tracer, call: Call) -> None:
    """LayerNorm, GroupNorm: removal would change what they compute."""
    name = call.op.removeprefix('aten::native_')
    for tensor in call.tensors():
        tracer.freeze(tracer.labels(tensor), f'normalised by {name}')
    labels = without_zero(tracer.labels(call.args[0]))
    tracer.set(call.outputs()[0], labels)


def _ids(labels: Labels, dim: int, size: int) -> Tensor:
    axis = labels.axes.get(dim)
    return torch.full((size,), -1) if axis is None else axis.ids


def _others(labels: Labels, dim: int) -> Labels:
    """Labels along all dimensions but one."""
    return Labels({d: a for d, a in labels.axes.items() if d != dim})


def _term(
    tracer: Tracer,
    weight: Tensor,
    flops: int,
    factors: tuple[Tensor, ...],
    name: str = '',
    kind: str = 'product',
) -> None:
    """Records multiply-adds; ``flops`` is their dense number."""
    constant = flops
    for ids in factors:
        constant //= ids.numel()
    labels = tracer.labels(weight)
    own = tracer.name(weight)
    if own is not None:
        name = own.rpartition('.')[0]
    elif labels.parameter and labels.axes:
        sites = tracer.sites_of(next(iter(labels.axes.values())).ids)
        name = sites[0].module if sites else name
    tracer.trace.terms.append(FlopsTerm(name, constant, factors, kind))


def _emit(
    tracer: Tracer,
    out: Tensor,
    dim: int,
    axis: Axis,
    bias: Tensor | None,
    others: Labels | None = None,
) -> None:
    """Sets fresh labels on a layer's output and registers the layer."""
    ids = axis.ids
    sites: list[Site] = tracer.sites_of(ids)
    axes = {} if others is None else dict(others.axes)
    if bias is not None:
        added = tracer.labels(bias)
        shift = _ids(added, 0, len(ids))
        tracer.graph.unite(ids, shift, INPUT_REASON)
        if not added.masks_to_zero(0):
            axis = Axis(ids, zero=False)
    if not sites:
        tracer.set(out, Labels(axes))
        return
    if bias is not None:
        sites += tracer.sites_of(shift)
    maker = tracer.make(sites)
    tracer.set(out, Labels({**axes, dim: axis}, maker=maker))


RULES = {
    f'aten::{name}': rule
    for rule, names in {
        convolution: 'convolution _convolution mkldnn_convolution',
        product: 'mm bmm',
        product_with_bias: 'addmm baddbmm',
        attention: (
            '_scaled_dot_product_flash_attention_for_cpu '
            '_scaled_dot_product_flash_attention '
            '_scaled_dot_product_efficient_attention'
        ),
        batch_norm: (
            'native_batch_norm _native_batch_norm_legit cudnn_batch_norm '
            '_native_batch_norm_legit_no_training _batch_norm_no_update'
        ),
        over_channels: 'native_layer_norm native_group_norm',
    }.items()
    for name in names.split()
}
