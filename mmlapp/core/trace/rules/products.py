# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Matrix products and attention."""

from __future__ import annotations

from torch import Tensor

from ..call import Call
from ..labels import Axis, Labels, without_zero
from ..record import INPUT_REASON
from ..rule import rules_of_aten
from ..tracer import Tracer
from .layer import all_but, check_zero, emit, ids_of, note_call


def product(tracer: Tracer, call: Call) -> None:
    """mm, bmm: ties the contracted dimensions, passes the others on."""
    _product(tracer, call, call.args[0], call.args[1], None)


def product_with_bias(tracer: Tracer, call: Call) -> None:
    """addmm, baddbmm: a product plus a bias."""
    _product(tracer, call, call.args[1], call.args[2], call.args[0])


def sparse_product(tracer: Tracer, call: Call) -> None:
    """A sparse matrix between positions, times ``[positions, C]``.

    As the neighbours in a graph are summed up: each channel by itself.
    """
    added, _, dense = call.args[:3]
    labels = tracer.labels(dense)
    tracer.freeze(all_but(labels, 1), 'mixed by a sparse matrix')
    if call.kwargs.get('beta', 1):
        tracer.freeze(labels, 'added to a product')
        tracer.freeze(tracer.labels(added), 'added to a product')
    axes = {1: labels.axes[1]} if 1 in labels.axes else {}
    tracer.set(call.outputs()[0], Labels(axes))


def of_weights(tracer: Tracer, call: Call) -> None:
    """mv, dot: what weights are measured by, as by their spectral norm."""
    first, second = call.args[:2]
    left, right = tracer.labels(first), tracer.labels(second)
    if not (left.parameter and right.parameter):
        for tensor in (first, second):
            tracer.freeze_read(tensor, call.op)
        return
    # sum_k a[.., k] b[k]
    inner = first.dim() - 1
    tracer.graph.unite(
        ids_of(left, inner, first.shape[inner]),
        ids_of(right, 0, second.shape[0]),
        INPUT_REASON,
    )
    check_zero(tracer, right.axes.get(0), left, inner)
    result = Labels(parameter=True)
    if inner and 0 in left.axes:
        rows = left.axes[0].ids
        if left.maskable:
            tracer.trace.readers.update(tracer.sites_of(rows))
        result.axes[0] = Axis(rows, left.masks_to_zero(0))
    tracer.set(call.outputs()[0], result)


def _product(
    tracer: Tracer, call: Call, a: Tensor, b: Tensor, bias: Tensor | None
) -> None:
    out = call.outputs()[0]
    left, right = tracer.labels(a), tracer.labels(b)
    # a is [.., row, inner] and b is [.., inner, column]; both may be batches.
    row, inner, column = a.dim() - 2, a.dim() - 1, b.dim() - 1
    # sum_k a[.., k] b[k, ..]: column k of a and row k of b go together, one of
    # them alone would leave factors of different lengths.
    entered, consumed = (
        ids_of(left, inner, a.shape[inner]),
        ids_of(right, row, b.shape[row]),
    )
    tracer.graph.unite(entered, consumed, INPUT_REASON)
    check_zero(tracer, left.axes.get(inner), right, row)
    # The result is [.., row, column]: rows keep the labels that they have in
    # a, columns those that they have in b.
    result = Labels()
    for dim, labels, summed in ((row, left, inner), (column, right, row)):
        if dim in labels.axes:
            result.axes[dim] = _summed(labels.axes[dim], summed)
    if a.dim() == 3 and (0 in left.axes or 0 in right.axes):
        result.axes[0] = _head_by_head(tracer, (a, left), (b, right))
    if not (left.parameter or right.parameter):
        sides = left.axes.get(inner), right.axes.get(row)
        tracer.heads.over += [axis.ids for axis in sides if axis is not None]
    # Every dimension with labels may shrink: [batch, row, inner] times
    # [batch, inner, column].
    dims = {'in': consumed, 'out': ids_of(right, column, b.shape[column])}
    if a.dim() == 3 and 0 in result.axes:
        dims['batch'] = result.axes[0].ids
    if row in result.axes:
        dims['rows'] = result.axes[row].ids
    note_call(tracer, 'product', (a, b, out), dims, call.op)
    # x @ W.T: a linear layer, whose columns are channels that it makes. With
    # no parameter it is a product of activations: it makes nothing.
    if right.parameter and column in right.axes:
        del result.axes[column]
        if bias is not None:
            result = without_zero(result)
        made = Axis(right.axes[column].ids, right.masks_to_zero(column))
        emit(tracer, out, column, made, bias, result)
    else:
        tracer.set(out, result)
        if bias is not None:
            tracer.freeze(tracer.labels(bias), 'added to a product')
            tracer.freeze(result, 'added to a product')


def _summed(axis: Axis, dim: int) -> Axis:
    """Labels behind a sum over what heads are made of: one for each head."""
    if axis.grid is None:
        return axis
    # They go together, so that the largest stands for all of them.
    grid = axis.grid.amax(dim, keepdim=True)
    varying = sum(size > 1 for size in grid.shape)
    return Axis(axis.ids, axis.zero, grid if varying > 1 else None)


def _head_by_head(
    tracer: Tracer, left: tuple[Tensor, Labels], right: tuple[Tensor, Labels]
) -> Axis:
    """Heads moved into the batch: ``[batch * heads, ..]`` on both sides.

    Of both the same ones go. What is mixed is zero where its values are;
    where both sides would be, they are compared, and need not be zero.
    """
    ids = [ids_of(labels, 0, x.shape[0]) for x, labels in (left, right)]
    for _, labels in (left, right):
        if 0 not in labels.axes:
            tracer.heads.unpaired += [a.ids for a in labels.axes.values()]
    tracer.graph.unite(ids[0], ids[1], INPUT_REASON)
    axes = left[1].axes.get(0), right[1].axes.get(0)
    zeros = [i for i, a in zip(ids, axes, strict=True) if a and a.zero]
    if len(zeros) == 1:
        tracer.heads.values += zeros
    else:
        tracer.heads.beside += ids
    return Axis(ids[0], zero=len(zeros) == 1)


def attention(tracer: Tracer, call: Call) -> None:
    """Scaled dot product: whole heads go, and channels of the values.

    The scale is computed from the width of a head, which removal would
    change: that of query and key is frozen.
    """
    query, key, value = call.args[:3]
    whole = _compared(tracer, call)
    # Query [batch, heads, length, width] against key [.., keys, width] gives
    # [.., length, keys], times value [.., keys, width]: two products, each
    # batch * heads * length * keys * width multiply-adds.
    batch, heads, length, _ = query.shape
    axis = tracer.labels(value).axes.get(3)
    scores = query.new_empty(1).expand(batch, heads, length, key.shape[2])
    keys = key.transpose(2, 3)
    dims = {} if whole is None else {'heads': whole.ids}
    name = call.op
    note_call(tracer, 'product', (query, keys, scores), dims, f'{name}.query')
    if axis is not None:
        dims = {**dims, 'out': axis.ids}
    note_call(
        tracer,
        'product',
        (scores, value, call.outputs()[0]),
        dims,
        f'{name}.value',
    )
    axes = {1: whole, 3: axis}
    tracer.set(
        call.outputs()[0],
        Labels({d: a for d, a in axes.items() if a is not None}),
    )


def _compared(tracer: Tracer, call: Call) -> Axis | None:
    """Ties the heads of queries, keys, values and masks ``[N, H, L, d]``."""
    # Behind them is the mask, if there is one.
    tensors = call.tensors()[:4]
    entries = [tracer.labels(t) for t in tensors]
    for labels in entries[:2]:
        if 3 in labels.axes:
            tracer.heads.over.append(labels.axes[3].ids)
        tracer.freeze(all_but(labels, 1), 'compared by attention')
    tracer.freeze(
        Labels({d: a for d, a in entries[2].axes.items() if d not in (1, 3)}),
        'mixed by attention',
    )
    for labels in entries[3:]:
        tracer.freeze(all_but(labels, 1), 'added to a product')
    if not any(1 in labels.axes for labels in entries):
        return None
    counts = {t.shape[1] for t in tensors[:3]}
    if len(counts) > 1 or any(t.dim() != 4 for t in tensors):
        for labels in entries:
            tracer.freeze(labels, 'compared by attention')
        return None
    # A mask for all heads broadcasts; one for each goes with its head.
    ids = [
        ids_of(labels, 1, t.shape[1])
        for labels, t in zip(entries, tensors, strict=True)
        if t.shape[1] in counts
    ]
    for others in ids[1:]:
        tracer.graph.unite(ids[0], others, INPUT_REASON)
    tracer.heads.beside += ids[:2]
    tracer.heads.values.append(ids[2])
    axis = entries[2].axes.get(1)
    return Axis(ids[2], zero=axis is not None and axis.zero)


RULES = rules_of_aten(
    {
        product: 'mm bmm',
        product_with_bias: 'addmm baddbmm',
        sparse_product: '_sparse_addmm',
        of_weights: 'mv dot vdot',
        attention: (
            '_scaled_dot_product_flash_attention_for_cpu '
            '_scaled_dot_product_flash_attention '
            '_scaled_dot_product_efficient_attention '
            '_scaled_dot_product_cudnn_attention'
        ),
    }
)
