# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Embeddings: every index picks a row of a table ``[rows, C]``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..call import Call
from ..labels import Axis, Labels
from ..rule import rules_of_aten
from ..tracer import Tracer
from .along import PLACES
from .layer import emit, note_call

ROWS = 'counts the rows that {} picks from'
LIMITED = 'limited over its channels by {}'
SPARSE = 'of a table with sparse gradients (sparse=True), which takes no mask'


def embedded(tracer: Tracer, call: Call) -> None:
    """embedding: indices ``[N, L]`` give ``[N, L, C]``."""
    index = call.args[1]
    # The row that an index picks is not zero where the index is.
    others = {
        d: Axis(axis.ids, zero=False)
        for d, axis in tracer.labels(index).axes.items()
    }
    _pick(tracer, call, index, others, call.argument(4, 'sparse', False))


def summed(tracer: Tracer, call: Call) -> None:
    """_embedding_bag: sums, means or maxima of rows, ``[bags, C]``."""
    # Indices, where bags begin, and a weight for each index.
    for tensor in call.tensors()[1:]:
        tracer.freeze(tracer.labels(tensor), PLACES.format(call.op))
    _pick(tracer, call, call.args[1], {}, call.argument(5, 'sparse', False))


def _pick(
    tracer: Tracer,
    call: Call,
    index: Tensor,
    others: Mapping[int, Axis],
    sparse: bool,
) -> None:
    """Sets labels behind a table, which emits its columns as a layer does.

    Args:
        tracer (Tracer): Receives labels, and what is frozen.
        call (Call): Its first argument is the table, ``[rows, C]``.
        index (Tensor): Picks the rows.
        others (Mapping[int, Axis]): Labels of the dimensions before the
            last one.
        sparse (bool): Whether the table gets a sparse gradient.
    """
    table, out = call.args[0], call.outputs()[0]
    labels = tracer.labels(table)
    rows, columns = (labels.axes.get(d) for d in range(2))
    if rows is not None:
        tracer.graph.freeze(rows.ids, ROWS.format(call.op))
    result = Labels(dict(others))
    if columns is None:
        tracer.set(out, result)
        return
    if not labels.parameter:
        # Rows of activations: what is zero in them stays so.
        result.axes[out.dim() - 1] = Axis(columns.ids, columns.zero)
        tracer.set(out, result)
        return
    if sparse:
        tracer.graph.freeze(columns.ids, SPARSE)
    dims = {'out': columns.ids}
    note_call(tracer, 'embedding', (index, table, out), dims, call.op)
    made = Axis(columns.ids, labels.masks_to_zero(1))
    emit(tracer, out, out.dim() - 1, made, None, result)


def limited(tracer: Tracer, call: Call) -> None:
    """embedding_renorm_: rows of a table get at most a given norm."""
    tracer.freeze(tracer.labels(call.args[0]), LIMITED.format(call.op))


RULES = rules_of_aten(
    {
        embedded: 'embedding',
        summed: '_embedding_bag _embedding_bag_forward_only',
        limited: 'embedding_renorm',
    }
)
