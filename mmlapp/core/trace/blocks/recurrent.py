# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers of PyTorch, followed as a whole.

A hidden unit whose weights are zero stays zero, where it begins: tanh(0) and
relu(0) are, a GRU mixes tanh(0) with the state before, and the cell of an LSTM
is f c + i tanh(0). So it goes with the rows of its gates, [gates * hidden].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..call import tensors_in
from ..labels import Axis, Labels
from ..record import INPUT_REASON, LayerCall
from ..rules.layer import all_but, check_zero, ids_of
from ..tracer import Tracer
from .registry import is_leaf, register_block
from .shapes import shape_of

# Rows of each weight that a hidden unit has.
GATES = {'LSTM': 4, 'GRU': 3, 'RNN_TANH': 1, 'RNN_RELU': 1}
FORWARDS = {kind.forward for kind in (nn.GRU, nn.LSTM, nn.RNN)}
# By these units and projections are scored.
EMITTING = 'weight_ih', 'weight_hr'
# Of as many units as it makes PyTorch takes a projection for none.
PROJECTED = 'must stay more than a projection makes of them'


def adjust_recurrent(module: Any) -> None:
    """Weights are [gates * hidden, input], a projection's [made, hidden]."""
    rows, module.input_size = shape_of(module, 'weight_ih_l0')
    module.hidden_size = rows // GATES[module.mode]
    if module.proj_size:
        module.proj_size = shape_of(module, 'weight_hr_l0')[0]


def recur(tracer: Tracer, module: Any, args: Sequence[Any], out: Any) -> None:
    """Units go in all layers and directions, which have equally many."""
    x = _values(args[0])
    first, *others = _layers(module)
    hidden = _ids(tracer, first['weight_ih'], 0)[: module.hidden_size]
    made = hidden
    if 'weight_hr' in first:
        made = _ids(tracer, first['weight_hr'], 0)
        tracer.graph.freeze(hidden, PROJECTED)
    # Without a first state it is zero, and stays so.
    zero = True
    for tensor, ids in zip(tensors_in(args[1:]), (made, hidden), strict=False):
        zero &= _begins_zero(tracer, tensor, ids)
    state, directions = Axis(made, zero), 2 if module.bidirectional else 1
    emitted = Axis(made.repeat(directions), zero)
    read = _input(tracer, x)
    name, steps = tracer.modules[id(module)], math.prod(x.shape[:-1])
    for number, layer in enumerate((first, *others)):
        # Both directions of the first layer read the input.
        source = read if number < directions else emitted
        _follow_layer(tracer, layer, source, state, hidden, (name, steps))
    output, *last = tensors_in((_values(out[0]), out[1]))
    for tensor, ids in zip(
        (output, *last), (emitted.ids, made, hidden), strict=False
    ):
        tracer.set(tensor, Labels({tensor.dim() - 1: Axis(ids, zero)}))


def _values(sequence: Tensor | PackedSequence) -> Tensor:
    """Its channels are last, whatever comes before."""
    return sequence.data if isinstance(sequence, PackedSequence) else sequence


def _layers(module: Any) -> Iterator[dict[str, Tensor]]:
    """Weights and biases of every layer and direction, by kind."""
    for names in module._all_weights:
        # weight_ih_l0_reverse
        yield {n.rpartition('_l')[0]: getattr(module, n) for n in names}


def _ids(tracer: Tracer, tensor: Tensor, dim: int) -> Tensor:
    return ids_of(tracer.labels(tensor), dim, tensor.shape[dim])


def _input(tracer: Tracer, x: Tensor) -> Axis:
    """What the first layer reads: its steps stay."""
    labels = tracer.labels(x)
    tracer.note_reader(labels)
    last = x.dim() - 1
    tracer.freeze(all_but(labels, last), 'steps of a recurrent layer')
    return labels.axes.get(last, Axis(_ids(tracer, x, last), zero=False))


def _begins_zero(tracer: Tracer, state: Tensor, ids: Tensor) -> bool:
    """Ties a first state, [.., ids]; says whether it is zero if removed."""
    axis = _input(tracer, state)
    tracer.graph.unite(ids, axis.ids, INPUT_REASON)
    return axis.zero


def _follow_layer(
    tracer: Tracer,
    layer: Mapping[str, Tensor],
    source: Axis,
    state: Axis,
    hidden: Tensor,
    call: tuple[str, int],
) -> None:
    """One layer in one direction."""
    # [gates * hidden] is gate by gate: unit u has the rows u, u + hidden, ..
    rows = hidden.repeat(len(layer['weight_ih']) // len(hidden))
    inner = Axis(hidden, state.zero)
    columns = {'weight_ih': source, 'weight_hh': state, 'weight_hr': inner}
    for kind, tensor in layer.items():
        emits = state.ids if kind == 'weight_hr' else rows
        own = _ids(tracer, tensor, 0)
        tracer.graph.unite(emits, own, INPUT_REASON)
        sites = tracer.sites_of(own)
        tracer.trace.masked.update(sites)
        if kind in EMITTING:
            tracer.trace.producers.update(sites)
        if kind in columns:
            _multiply(tracer, tensor, columns[kind], emits, call)


def _multiply(
    tracer: Tracer,
    weight: Tensor,
    read: Axis,
    emits: Tensor,
    call: tuple[str, int],
) -> None:
    """[steps, in] by a weight [out, in]."""
    tracer.graph.unite(read.ids, _ids(tracer, weight, 1), INPUT_REASON)
    check_zero(tracer, read, tracer.labels(weight), 1)
    (name, steps), (rows, columns) = call, weight.shape
    tracer.trace.calls.append(
        LayerCall(
            name,
            'product',
            {'in': read.ids, 'out': emits},
            (steps, columns),
            (columns, rows),
            (steps, rows),
        )
    )


def is_stock(module: nn.Module) -> bool:
    """Whether a layer runs as PyTorch's do, on weights of its own."""
    forward = getattr(type(module), 'forward', None)
    return is_leaf(module) and forward in FORWARDS


register_block(
    'RNNBase', adjust=adjust_recurrent, rule=recur, rule_applies=is_stock
)
