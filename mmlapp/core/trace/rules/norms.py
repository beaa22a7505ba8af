# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Norms, as operators."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..call import Call
from ..labels import Axis, Labels, tie_pieces, without_zero
from ..record import INPUT_REASON
from ..rule import rules_of_aten
from ..tracer import Tracer
from .layer import all_but, ids_of

OVER_CHANNELS = 'normalised over channels by batch_norm'


def batch_norm(tracer: Tracer, call: Call) -> None:
    """Ties every per-channel tensor; the affine part carries the mask."""
    x = call.args[0]
    if tracer.labels(x).parameter:
        standardised(tracer, call)
        return
    axis = tracer.labels(x).axes.get(1)
    ids = ids_of(tracer.labels(x), 1, x.shape[1])
    # x is [N, C, ..]; weight, bias, running mean and variance are [C]. An
    # instance norm comes as [1, N * C, ..], with N repeats of each [C].
    for tensor in call.args[1:5]:
        if tensor is not None:
            tracer.graph.unite(
                ids, ids_of(tracer.labels(tensor), 0, x.shape[1]), INPUT_REASON
            )
    # Of a removed channel scale * x + shift must be zero: with both masked it
    # is, whatever x and the statistics are. With neither it is not.
    affine = [tracer.name(t) for t in call.args[1:3]]
    for name in affine:
        if name is not None:
            tracer.trace.masked.add(tracer.site(name, 0, x.shape[1]))
    if affine[0] is not None:
        tracer.link_norm(tracer.labels(x).maker, affine[0], affine[1])
    others = all_but(tracer.labels(x), 1)
    batch = others.axes.pop(0, None)
    tracer.freeze(others, OVER_CHANNELS)
    axes = {} if axis is None else {1: Axis(ids, zero=None not in affine)}
    if batch is not None:
        axes[0] = Axis(batch.ids, zero=False)
    # A constant less its own mean, whatever the running one is.
    constant = None
    if call.args[2] is None and tracer.labels(x).value(1) is not None:
        constant = 0.0
    for output in call.outputs()[:1]:
        tracer.set(output, Labels(axes, constant=constant))


def standardised(tracer: Tracer, call: Call) -> None:
    """Filters [1, out, in * k] with the mean and deviation of each."""
    labels = tracer.labels(call.args[0])
    ids = ids_of(labels, 1, call.args[0].shape[1])
    for tensor in call.args[1:3]:  # gain and shift, [out]
        if tensor is not None:
            own = ids_of(tracer.labels(tensor), 0, len(ids))
            tracer.graph.unite(ids, own, INPUT_REASON)
    for axis in all_but(labels, 1).axes.values():
        tracer.living.over(labels, axis.ids, OVER_CHANNELS)
    tracer.set(call.outputs()[0], without_zero(labels))


def has_own_scale(call: Call) -> bool:
    """Whether a norm has a parameter by which it scales each channel."""
    return isinstance(call.args[1], nn.Parameter)


def over_the_last(tracer: Tracer, call: Call) -> None:
    """layer_norm, rms_norm: over as many dimensions as their shape has."""
    first = call.args[0].dim() - len(call.args[1])
    _over(tracer, call, first, call.tensors()[1:])


def over_groups(tracer: Tracer, call: Call) -> None:
    """group_norm: the number of groups is a constant of the code."""
    x, groups = call.args[0], int(call.args[6])
    axis = tracer.labels(x).axes.get(1)
    if axis is not None and groups > 1:
        tie_pieces(tracer.graph, axis, x.shape[1] // groups)
    _over(tracer, call, 1, [t for t in call.args[1:3] if t is not None])


def _over(
    tracer: Tracer, call: Call, first: int, affine: Sequence[Tensor]
) -> None:
    """Removal would change what is computed over dimensions of channels.

    Args:
        tracer (Tracer): Receives ties, and what is frozen.
        call (Call): The operator.
        first (int): First dimension that it is computed over.
        affine (Sequence[Tensor]): Scale and shift, if there are any, whose
            dimensions are those from the first one on.
    """
    reason = f'normalised by {call.op.removeprefix("aten::native_")}'
    x, labels = call.args[0], tracer.labels(call.args[0])
    for dim, axis in labels.axes.items():
        if dim >= first:
            tracer.living.over(labels, axis.ids, reason)
    for tensor in affine:
        for dim, axis in tracer.labels(tensor).axes.items():
            ids = ids_of(labels, first + dim, x.shape[first + dim])
            tracer.graph.unite(ids, axis.ids, INPUT_REASON)
    tracer.set(call.outputs()[0], without_zero(labels))


def weight_norm(tracer: Tracer, call: Call) -> None:
    """W = g v / |v|: a filter goes with its length g, whose mask is its own.

    Weight normalisation (arXiv 1602.07868). |v| is taken over inputs: what is
    removed of them is zero in v, so that it is that of what is left.
    """
    direction, length = (tracer.labels(tensor) for tensor in call.args[:2])
    dim, size = int(call.argument(2, 'dim', 0)), call.args[0].shape
    made = {}
    for d, axis in all_but(direction, dim).axes.items():
        made[d] = Axis(axis.ids, direction.maskable)
        if direction.maskable:
            tracer.trace.readers.update(tracer.sites_of(axis.ids))
        else:
            reason = 'measured by weight_norm'
            tracer.living.over(direction, axis.ids, reason)
    # v [out, in, ..] and g [out, 1, ..] along the same dimension. Of the
    # labels those of g go on: v masked would be divided by its norm, zero.
    ids = ids_of(length, dim, size[dim])
    tracer.graph.unite(ids, ids_of(direction, dim, size[dim]), INPUT_REASON)
    if dim in length.axes:
        made[dim] = Axis(ids, zero=False)
    labels = Labels(made, parameter=True, maskable=length.maskable)
    tracer.set(call.outputs()[0], labels)


RULES = {
    **rules_of_aten(
        {
            batch_norm: (
                'native_batch_norm _native_batch_norm_legit cudnn_batch_norm '
                '_native_batch_norm_legit_no_training _batch_norm_no_update'
            )
        },
        carries_mask=has_own_scale,
    ),
    **rules_of_aten(
        {
            over_the_last: 'native_layer_norm _fused_rms_norm',
            over_groups: 'native_group_norm',
            weight_norm: '_weight_norm_interface',
        }
    ),
}
