# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers and cells of PyTorch, followed as a whole.

A hidden unit whose weights are zero stays zero, where it begins: tanh(0) and
relu(0) are, a GRU mixes tanh(0) with the state before, and the cell of an LSTM
is f c + i tanh(0). So it goes with the rows of its gates, [gates * hidden].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

LAYERS = nn.GRU, nn.LSTM, nn.RNN
CELLS = nn.GRUCell, nn.LSTMCell, nn.RNNCell
FORWARDS = {kind.forward for kind in (*LAYERS, *CELLS)}
# By these units and projections are scored.
EMITTING = 'weight_ih', 'weight_hr'
# PyTorch takes a projection to as many for none.
PROJECTED = 'projected, and must stay more than what they are projected to'


def adjust_layer(module: Any) -> None:
    """Weights are [gates * hidden, inputs] and [gates * hidden, hidden]."""
    module.input_size = shape_of(module, 'weight_ih_l0')[1]
    if module.proj_size:
        # [projected, hidden]
        shape = shape_of(module, 'weight_hr_l0')
        module.proj_size, module.hidden_size = shape
    else:
        module.hidden_size = shape_of(module, 'weight_hh_l0')[1]


def adjust_cell(module: Any) -> None:
    """As those of a layer."""
    module.input_size = shape_of(module, 'weight_ih')[1]
    module.hidden_size = shape_of(module, 'weight_hh')[1]


def recur(tracer: Tracer, module: Any, args: Sequence[Any], out: Any) -> None:
    """Units go in all layers and directions, which have equally many."""
    x = _values(args[0])
    first, *others = _layers(module)
    hidden = _ids(tracer, first['weight_ih'], 0)[: module.hidden_size]
    made = hidden
    if 'weight_hr' in first:
        made = _ids(tracer, first['weight_hr'], 0)
        tracer.graph.freeze(hidden, PROJECTED)
    zero = _begin_zero(tracer, args[1:], (made, hidden))
    state = Axis(made, zero)
    directions = 2 if getattr(module, 'bidirectional', False) else 1
    emitted = Axis(made.repeat(directions), zero)
    read = _input(tracer, x)
    call = tracer.modules[id(module)], math.prod(x.shape[:-1])
    for number, layer in enumerate((first, *others)):
        # Both directions of the first layer read the input.
        source = read if number < directions else emitted
        _follow_layer(tracer, layer, source, state, hidden, call)
    # A cell returns its states alone.
    results = [] if isinstance(module, CELLS) else [_values(out[0])]
    states = tensors_in(out[1] if results else out)
    _label(tracer, results, (emitted.ids,), zero)
    _label(tracer, states, (made, hidden), zero)


def _label(
    tracer: Tracer,
    tensors: Iterable[Tensor],
    ids: Sequence[Tensor],
    zero: bool,
) -> None:
    for tensor, own in zip(tensors, ids, strict=False):
        tracer.set(tensor, Labels({tensor.dim() - 1: Axis(own, zero)}))


def _values(sequence: Tensor | PackedSequence) -> Tensor:
    """Its channels are last, whatever comes before."""
    return sequence.data if isinstance(sequence, PackedSequence) else sequence


def _layers(module: Any) -> Iterator[dict[str, Tensor]]:
    """Weights and biases of every layer and direction, by kind."""
    for names in getattr(module, '_all_weights', [module._parameters]):
        # weight_ih_l0_reverse, or weight_ih of a cell
        kinds = {name.partition('_l')[0]: name for name in names}
        tensors = {k: getattr(module, name) for k, name in kinds.items()}
        yield {k: t for k, t in tensors.items() if t is not None}


def _ids(tracer: Tracer, tensor: Tensor, dim: int) -> Tensor:
    return ids_of(tracer.labels(tensor), dim, tensor.shape[dim])


def _input(tracer: Tracer, x: Tensor) -> Axis:
    """The last dimension of what is read; steps and batches stay."""
    labels = tracer.labels(x)
    tracer.note_reader(labels)
    last = x.dim() - 1
    tracer.freeze(all_but(labels, last), 'steps of a recurrent layer')
    return labels.axes.get(last, Axis(_ids(tracer, x, last), zero=False))


def _begin_zero(
    tracer: Tracer, states: Sequence[Any], ids: Sequence[Tensor]
) -> bool:
    """Ties first states, [.., ids]; says whether removed units are zero.

    Without a first state all units are, and stay so without weights.
    """
    zero = True
    for state, own in zip(tensors_in(states), ids, strict=False):
        axis = _input(tracer, state)
        tracer.graph.unite(own, axis.ids, INPUT_REASON)
        zero &= axis.zero
    return zero


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
    'RNNBase', adjust=adjust_layer, rule=recur, rule_applies=is_stock
)
register_block(
    'RNNCellBase', adjust=adjust_cell, rule=recur, rule_applies=is_stock
)
