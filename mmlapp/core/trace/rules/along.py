# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Operators along one dimension, which leave every line beside it alone.

Sums and orders along time, positions that are gathered or added up, as the
messages of a graph are: channels that lie along another dimension stay apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..call import Call
from ..labels import Axis, Labels, blank
from ..memory import PART
from ..record import INPUT_REASON
from ..rule import rules_of_aten
from ..tracer import Tracer
from .layer import ids_of
from .movement import moved

ALONG = 'computed along its channels by {}'
CUT = 'taken along its channels by {}'
PLACES = 'tells where {} reads or writes'

# Where all numbers of a line are zero, so is what these make of them.
_VANISHING = (
    'cumsum cumprod cummax cummin sort topk kthvalue median nanmedian mode '
    'aminmax tril triu'
)
# These shift and weigh positions, none of which is zero behind them.
_LOGARITHMS = 'logsumexp logcumsumexp'
VANISHING = {f'aten::{name}' for name in _VANISHING.split()}


def along(tracer: Tracer, call: Call) -> None:
    """sort, cumsum, topk, tril ...: lines of numbers, each by itself."""
    source = call.args[0]
    over = _dims(call, source)
    labels = tracer.labels(source)
    for dim, axis in labels.axes.items():
        if dim in over:
            reason = ALONG.format(call.op)
            tracer.living.over(labels, axis.ids, reason)
    zero = call.op.removesuffix('_') in VANISHING
    for output in call.outputs():
        # Indices of a line of zeros are none.
        values = zero and output.dtype == source.dtype
        # [N, C, L] over 2 is [N, C, 1] or [N, C].
        shift = int(output.dim() < source.dim())
        # As many of them come out, for a module that runs on what lives.
        whole = output.shape == source.shape
        axes = {
            dim - shift * sum(d < dim for d in over): Axis(
                axis.ids, axis.zero and values and dim not in over
            )
            for dim, axis in labels.axes.items()
            if dim not in over or whole
        }
        tracer.set(output, Labels(axes, parameter=labels.parameter))


def _dims(call: Call, source: Tensor) -> set[int]:
    """Dimensions along which an operator computes."""
    rank = max(source.dim(), 1)
    if call.op.removesuffix('_') in ('aten::tril', 'aten::triu'):
        return {rank - 2, rank - 1}
    names = [argument.name for argument in call.func._schema.arguments]
    dims: Any = None
    if 'dim' in names:
        default = None if call.op == 'aten::aminmax' else -1
        dims = call.argument(names.index('dim'), 'dim', default)
    if dims is None:
        return set(range(rank))
    dims = [dims] if isinstance(dims, int) else dims
    return {d % rank for d in dims} or set(range(rank))


def picked(tracer: Tracer, call: Call) -> None:
    """index_select, gather: free but along the dimension picked from."""
    source, dim = call.args[0], int(call.args[1])
    _follow_index(tracer, call, [source], dim % max(source.dim(), 1))
    moved(tracer, call)


def put_along(tracer: Tracer, call: Call) -> None:
    """index_add, scatter ...: what comes has the channels that are there."""
    target, dim = call.args[0], int(call.args[1])
    dim %= max(target.dim(), 1)
    come = call.argument(3, call.func._schema.arguments[3].name)
    number = not isinstance(come, Tensor) or not come.dim()
    operands = [target] if number else [target, come]
    if call.written() and not tracer.knows_whole(target):
        for tensor in operands:
            tracer.freeze(tracer.labels(tensor), PART)
    free = _follow_index(tracer, call, operands, dim)
    # What is put there may be zero as well; a tensor of one number is not.
    zero = not number or (not isinstance(come, Tensor) and come == 0)
    entries = [tracer.labels(tensor) for tensor in operands]
    axes = {}
    for d in sorted(free & {d for e in entries for d in e.axes}):
        # What is expanded along a dimension is as good for fewer channels.
        found = [
            e.axes.get(d) or blank(t.shape[d] if t.stride(d) else 0)
            for e, t in zip(entries, operands, strict=True)
        ]
        ids = torch.stack([axis.ids for axis in found if len(axis.ids)])
        tracer.graph.unite(ids[:1], ids, INPUT_REASON)
        zero_here = zero and all(axis.zero for axis in found)
        axes[d] = Axis(ids.amax(0), zero_here)
    tracer.set(call.outputs()[0], Labels(axes))


def _follow_index(
    tracer: Tracer, call: Call, operands: Sequence[Tensor], dim: int
) -> set[int]:
    """Freezes what is indexed, and ties indices to the lines that they pick.

    Args:
        tracer (Tracer): Receives ties, and what is frozen.
        call (Call): The operator.
        operands (Sequence[Tensor]): What is read or written.
        dim (int): The dimension of positions.

    Returns:
        set[int]: Dimensions of lines, which are free.
    """
    index = call.args[2]
    rank = operands[0].dim()
    # One row of indices for all lines, or one for each of them.
    tensors = [*operands, index] if index.dim() == rank > 1 else operands
    sizes = [{t.shape[d] for t in tensors} for d in range(rank)]
    # The first lines alone are meant, if there are fewer indices.
    free = {d for d in range(rank) if d != dim and len(sizes[d]) == 1}
    for tensor in operands:
        for d, axis in tracer.labels(tensor).axes.items():
            if d not in free:
                tracer.graph.freeze(axis.ids, CUT.format(call.op))
    for d, axis in tracer.labels(index).axes.items():
        if tensors is operands or d not in free:
            tracer.graph.freeze(axis.ids, PLACES.format(call.op))
            continue
        for tensor in operands:
            line = ids_of(tracer.labels(tensor), d, tensor.shape[d])
            tracer.graph.unite(line, axis.ids, INPUT_REASON)
    return free


RULES = rules_of_aten(
    {
        along: f'{_VANISHING} {_LOGARITHMS} argsort',
        picked: 'index_select gather',
        put_along: (
            'index_add index_copy index_fill index_reduce scatter '
            'scatter_add scatter_reduce'
        ),
    }
)
