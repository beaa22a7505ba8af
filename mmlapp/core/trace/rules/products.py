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
    for dim, labels, source in ((row, left, row), (column, right, column)):
        if source in labels.axes:
            result.axes[dim] = labels.axes[source]
    if a.dim() == 3 and (0 in left.axes or 0 in right.axes):
        # Heads moved into the batch: [batch * heads, ..] on both sides, of
        # which the same ones go.
        batch_ids = ids_of(left, 0, a.shape[0])
        tracer.graph.unite(
            batch_ids, ids_of(right, 0, b.shape[0]), INPUT_REASON
        )
        result.axes[0] = Axis(batch_ids, zero=False)
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


def attention(tracer: Tracer, call: Call) -> None:
    """Scaled dot product: query and key channels go together, value's pass.

    The scale is computed from the width of the query, which removal would
    change: query and key are frozen.
    """
    query, key, value = call.args[:3]
    for tensor in (query, key):
        tracer.freeze(tracer.labels(tensor), 'compared by attention')
    # Query [batch, heads, length, width] against key [.., keys, width] gives
    # [.., length, keys], times value [.., keys, width]: two products, each
    # batch * heads * length * keys * width multiply-adds.
    batch, heads, length, _ = query.shape
    axis = tracer.labels(value).axes.get(3)
    scores = query.new_empty(1).expand(batch, heads, length, key.shape[2])
    keys = key.transpose(2, 3)
    note_call(tracer, 'product', (query, keys, scores), {}, f'{call.op}.query')
    note_call(
        tracer,
        'product',
        (scores, value, call.outputs()[0]),
        {} if axis is None else {'out': axis.ids},
        f'{call.op}.value',
    )
    tracer.freeze(all_but(tracer.labels(value), 3), 'mixed by attention')
    axes = {} if axis is None else {3: axis}
    tracer.set(call.outputs()[0], Labels(axes))


RULES = rules_of_aten(
    {
        product: 'mm bmm',
        product_with_bias: 'addmm baddbmm',
        of_weights: 'mv dot vdot',
        attention: (
            '_scaled_dot_product_flash_attention_for_cpu '
            '_scaled_dot_product_flash_attention '
            '_scaled_dot_product_efficient_attention '
            '_scaled_dot_product_cudnn_attention'
        ),
    }
)
