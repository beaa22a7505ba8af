# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Operators that only move data: the label tensor is moved alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from ..call import Call
from ..cuts import Span, cut_follows
from ..labels import (
    Axis,
    Keep,
    Labels,
    blank,
    common_constant,
    gather_axis,
    move,
    spread,
    tie_pieces,
)
from ..memory import LOST, PART
from ..record import INPUT_REASON
from ..rule import rules_of_aten
from ..tracer import Tracer
from .layer import all_but, ids_of

CUT = 'cut at a position that is a constant of the code'
SURPLUS = 'the surplus of a piece over the last one, where it is cut unevenly'


def moved(tracer: Tracer, call: Call) -> None:
    """Views, permutations, shuffles, rolls, copies of one tensor."""
    tracer.know(call.args[0])
    labels, outputs = tracer.labels(call.args[0]), call.outputs()
    shapes = [tuple(output.shape) for output in outputs]

    def operation(tensor: Tensor) -> Any:
        if call.op in _VIEWS:  # expanded labels may need a copy to be viewed
            return tensor.reshape([size or 1 for size in shapes[0]])
        return call.func(tensor, *call.args[1:], **_dataless(call.kwargs))

    choose = None
    if call.op in _VIEWS:
        choose = partial(_cut, tracer, _place(tracer), len(shapes[0]))
    found = move(
        tracer.graph, labels, call.shape, operation, shapes, LOST, choose
    )
    for output, entry in zip(outputs, found, strict=True):
        tracer.set(output, entry)


def _place(tracer: Tracer) -> tuple[str, int]:
    """Module and number of a view."""
    running = tracer.running()
    return running, tracer.heads.next_view(running)


def _cut(tracer: Tracer, place: tuple[str, int], rank: int, dim: int) -> Keep:
    """What is asked where a view cuts a dimension."""
    return partial(tracer.heads.cut, (*place, dim), rank)


_VIEWS = {'aten::view', 'aten::_unsafe_view', 'aten::reshape'}


def _dataless(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Drops what changes the type of a tensor: labels stay integers."""
    return {
        k: v
        for k, v in kwargs.items()
        if k not in ('dtype', 'memory_format', 'layout', 'device')
    }


def squeezed(tracer: Tracer, call: Call) -> None:
    """squeeze: a dimension of channels must not become one of size one."""
    dims = call.argument(1, 'dim')
    dims = [dims] if isinstance(dims, int) else dims
    rank = max(len(call.shape), 1)
    over = range(rank) if dims is None else [d % rank for d in dims]
    axes = tracer.labels(call.args[0]).axes
    tracer.trace.lasting += [(axes[d].ids, 2) for d in over if d in axes]
    moved(tracer, call)


def copied(tracer: Tracer, call: Call) -> None:
    """Results with the shape and the labels of their first argument."""
    labels = tracer.labels(call.args[0])
    for output in call.outputs():
        tracer.set(output, labels.moved(dict(labels.axes)))


def pieces(tracer: Tracer, call: Call) -> None:
    """slice, split, narrow: cuts along channels need equal pieces."""
    source = call.args[0]
    dim = _dim(call, source)
    axis = tracer.labels(source).axes.get(dim)
    if axis is not None and not tracer.cuts_follow():
        # All of it, or equal pieces [C/L, L] that lose the same columns, or
        # equal ones and a shorter last one. Everything else is at a constant.
        lengths = {t.shape[dim] for t in call.outputs()}
        whole = lengths == {source.shape[dim]}
        length = max(lengths)
        aligned = len(lengths) == 1 and _starts_at_multiple(call, length)
        if not (
            cut_follows(tracer, axis.ids, _spans(call, dim))
            or whole
            or (aligned and tie_pieces(tracer.graph, axis, length))
            or _tie_chunks(
                tracer, axis, [t.shape[dim] for t in call.outputs()]
            )
        ):
            tracer.graph.freeze(axis.ids, CUT)
    moved(tracer, call)


def _spans(call: Call, dim: int) -> list[Span]:
    """Where the pieces of a cut begin and end along its dimension."""
    lengths = [t.shape[dim] for t in call.outputs()]
    first = 0
    if call.op in ('aten::slice', 'aten::narrow'):
        first = int(call.argument(2, 'start') or 0)
        size = call.shape[dim]
        first = min(first + size if first < 0 else first, size)
        if call.op == 'aten::slice' and call.argument(4, 'step', 1) != 1:
            return []
    ends = list(accumulate(lengths, initial=first))
    return list(pairwise(ends))


def _tie_chunks(tracer: Tracer, axis: Axis, lengths: list[int]) -> bool:
    """Ties equal pieces and a shorter last one, as chunk makes them.

    With L and r indices per piece, the first r of all go together and the
    other L - r stay: what is left is cut alike, since ceil(C / n) for C = n L
    - (L - r) channels in n pieces falls with L as long as L - r is the same.
    """
    # 8 channels in 3 pieces are [0, 1, 2], [3, 4, 5], [6, 7]: L = 3, r = 2.
    # If 0, 3 and 6 go, ceil(5 / 3) = 2 cuts into [1, 2], [4, 5] and [7].
    *full, rest = lengths
    if not full or len(set(full)) > 1 or not 0 < rest < full[0]:
        return False
    # [n - 1, L] full pieces and [r] of the last. The first r columns go in all
    # n pieces, the last one included; the other L - r stay.
    pieces = axis.ids[:-rest].view(-1, full[0])
    tie_pieces(tracer.graph, Axis(pieces.reshape(-1)), full[0])
    tie_pieces(
        tracer.graph,
        Axis(torch.cat([pieces[0, :rest], axis.ids[-rest:]])),
        rest,
    )
    tracer.graph.freeze(pieces[0, rest:], SURPLUS)
    return True


def _starts_at_multiple(call: Call, length: int) -> bool:
    """Whether a slice is one of the equal pieces of its dimension."""
    if call.op != 'aten::slice' or not length:
        return True
    start, step = call.argument(2, 'start', 0), call.argument(4, 'step', 1)
    return step == 1 and (start or 0) % length == 0


def shuffled(tracer: Tracer, call: Call) -> None:
    """channel_shuffle: the number of groups is a constant of the code."""
    axis = tracer.labels(call.args[0]).axes.get(1)
    if axis is not None:
        # [C] as [g, C/g], transposed: g stays, the same columns of rows go.
        # 6 in 3 groups leave as [0, 2, 4, 1, 3, 5]. Without 0, 2 and 4 what is
        # left, [1, 3, 5], is shuffled in 3 groups of one to the same order.
        length = call.args[0].shape[1] // int(call.argument(1, 'groups'))
        tie_pieces(tracer.graph, axis, length)
    moved(tracer, call)


def shifted(tracer: Tracer, call: Call) -> None:
    """roll, unfold: along channels they count by constants of the code."""
    source = call.args[0]
    name = 'dims' if call.op == 'aten::roll' else 'dimension'
    # A roll without dims is one of the flattened tensor: over all of them.
    dims = call.argument(2 if name == 'dims' else 1, name, [])
    dims = [dims] if isinstance(dims, int) else dims or range(source.dim())
    over = {d % source.dim() for d in dims}
    for dim, axis in tracer.labels(source).axes.items():
        if dim in over:
            tracer.graph.freeze(axis.ids, CUT)
    moved(tracer, call)


def patched(tracer: Tracer, call: Call) -> None:
    """im2col: every channel becomes as many as the window has pixels."""
    axis = tracer.labels(call.args[0]).axes
    tracer.freeze(Labels({d: a for d, a in axis.items() if d != 1}), LOST)
    result = Labels()
    if 1 in axis:
        height, width = call.args[1]
        # [C] -> [C * kh * kw]: all pixels of channel 0, then of channel 1, ..
        # 2 channels and 1 x 3 pixels: [0, 0, 0, 1, 1, 1].
        ids = axis[1].ids.repeat_interleave(height * width)
        result.axes[1] = Axis(ids, axis[1].zero)
    tracer.set(call.outputs()[0], result)


def selected(tracer: Tracer, call: Call) -> None:
    """select, unbind: one index of a dimension, which disappears."""
    source = call.args[0]
    axis = tracer.labels(source).axes.get(_dim(call, source))
    if axis is not None:
        tracer.graph.freeze(axis.ids, CUT)
    moved(tracer, call)


def _dim(call: Call, source: Tensor) -> int:
    # The position of ``dim`` differs: split(x, sizes, dim), narrow(x, dim, ..)
    names = [argument.name for argument in call.func._schema.arguments]
    dim = call.argument(names.index('dim'), 'dim', 0)
    return int(dim) % max(source.dim(), 1)


def folded(tracer: Tracer, call: Call) -> None:
    """col2im: pixels of the windows are added up, channel by channel."""
    axis = tracer.labels(call.args[0]).axes
    # [N, C * kh * kw, L] or without N; what comes out is [N, C, H, W].
    dim = call.args[0].dim() - 2
    tracer.freeze(Labels({d: a for d, a in axis.items() if d > dim}), LOST)
    kept = {d: a for d, a in axis.items() if d < dim}
    if dim in axis:
        # All pixels of channel 0, then of channel 1: [C, kh * kw].
        pixels = math.prod(call.argument(2, 'kernel_size'))
        rows = axis[dim].ids.view(-1, pixels)
        tracer.graph.unite(rows[:, :1], rows, INPUT_REASON)
        kept[dim] = Axis(rows.amax(1), axis[dim].zero)
    tracer.set(call.outputs()[0], Labels(kept))


def packed(tracer: Tracer, call: Call) -> None:
    """_pack_padded_sequence: steps of all sequences become one dimension."""
    source = call.args[0]
    labels = tracer.labels(source)
    # [steps, batch, C] -> [all steps, C]
    tracer.freeze(all_but(labels, 2), LOST)
    axes = {1: labels.axes[2]} if 2 in labels.axes else {}
    tracer.set(call.outputs()[0], labels.moved(axes))


def padded(tracer: Tracer, call: Call) -> None:
    """constant_pad_nd: padding between channels is a constant of the code."""
    source, pad = call.args[0], list(call.args[1])
    value = call.argument(2, 'value', 0)
    labels = tracer.labels(source)
    output = call.outputs()[0]
    result = Labels(constant=labels.constant)
    for dim, axis in labels.axes.items():
        # Pairs from the last dimension on; below zero they cut.
        end = 2 * (source.dim() - dim)
        before, after = pad[end - 2 : end] or (0, 0)
        # What is cut stays, so that the others stay where they are from there.
        size = source.shape[dim]
        tracer.graph.freeze(axis.ids[: max(-before, 0)], CUT)
        tracer.graph.freeze(axis.ids[size - max(-after, 0) :], CUT)
        # Labels are padded with NO_CHANNEL, whatever the values are: zeros
        # keep the promise of zeros, other values are read through a mask.
        # Of heads by what stands for each of them.
        plain = spread(Axis(axis.ids), dim, source.shape)
        filled = torch.constant_pad_nd(plain, pad, -1)
        found = gather_axis(tracer.graph, filled, axis.zero and value == 0)
        if found is None or found[0] in result.axes:
            tracer.graph.freeze(axis.ids, LOST)
        else:
            result.axes[found[0]] = found[1]
    tracer.set(output, result)


def concatenated(tracer: Tracer, call: Call) -> None:
    """cat: labels follow each other along one dimension, tie elsewhere."""
    # A row of no elements is left out, whatever the shape of the others.
    rank = call.outputs()[0].dim()
    tensors = [t for t in call.args[0] if t.dim() == rank]
    dim = int(call.argument(1, 'dim', 0)) % rank
    entries = [tracer.labels(t) for t in tensors]
    output = Labels(constant=common_constant(entries))
    for d in sorted({d for e in entries for d in e.axes}):
        axes = [
            e.axes.get(d) or blank(t.shape[d])
            for e, t in zip(entries, tensors, strict=True)
        ]
        zero = all(axis.zero for axis in axes)
        if d == dim:
            ids = torch.cat([axis.ids for axis in axes])
        else:
            ids = axes[0].ids
            for axis in axes[1:]:
                tracer.graph.unite(ids, axis.ids, 'joined with a constant')
        # Along dim [C1] and [C2] give [C1 + C2], free of each other. Along
        # other dimensions both have the same size, and shrink together.
        output.axes[d] = Axis(ids, zero)
    tracer.set(call.outputs()[0], output)


def stacked(tracer: Tracer, call: Call) -> None:
    """stack: a new dimension; the labels of the others are tied."""
    tensors = list(call.args[0])
    new = int(call.argument(1, 'dim', 0)) % (tensors[0].dim() + 1)
    entries = [tracer.labels(t) for t in tensors]
    output = Labels(constant=common_constant(entries))
    for d in sorted({d for e in entries for d in e.axes}):
        axes = [
            e.axes.get(d) or blank(t.shape[d])
            for e, t in zip(entries, tensors, strict=True)
        ]
        for axis in axes[1:]:
            tracer.graph.unite(axes[0].ids, axis.ids, 'joined with a constant')
        # Dimensions from the new one on move up: two [N, C] stacked at 1
        # are [N, 2, C], whose channels are at 2.
        output.axes[d + (d >= new)] = Axis(
            axes[0].ids, all(a.zero for a in axes)
        )
    tracer.set(call.outputs()[0], output)


def indexed(tracer: Tracer, call: Call) -> None:
    """index: free along unlabelled dimensions, frozen along labelled ones."""
    source = call.args[0]
    picks = call.args[1]
    for dim, pick in enumerate(picks):
        axis = tracer.labels(source).axes.get(dim)
        if pick is not None and axis is not None:
            tracer.graph.freeze(axis.ids, CUT)
    moved(tracer, call)


def put(tracer: Tracer, call: Call) -> None:
    """index_put: what is put in must have the channels that are there."""
    target, picks, values = call.args[:3]
    there, come = tracer.labels(target), tracer.labels(values)
    places = _free_places(target, picks)
    if places is None or not tracer.knows_whole(target):
        tracer.freeze(there, PART)
        tracer.freeze(come, PART)
        return
    axes: dict[int, Axis] = {}
    for dim, size in enumerate(target.shape):
        # Broadcast from the right.
        here = places.get(dim, 0) + values.dim()
        axis, other = there.axes.get(dim), come.axes.get(here)
        if dim not in places:
            tracer.freeze(Labels({0: axis} if axis else {}), CUT)
            continue
        if other is None and here >= 0 and values.shape[here] > 1:
            other = blank(size)
        if axis is None and other is not None:
            axis = blank(size)
        if axis is not None and other is not None:
            tracer.graph.unite(axis.ids, other.ids, INPUT_REASON)
            axes[dim] = Axis(axis.ids, axis.zero and other.zero)
        elif axis is not None:
            axes[dim] = Axis(axis.ids, zero=False)
    taken = {place + values.dim() for place in places.values()}
    for dim, axis in come.axes.items():
        if dim not in taken:
            tracer.graph.freeze(axis.ids, LOST)
    tracer.set(call.outputs()[0], Labels(axes))


def _free_places(
    target: Tensor, picks: Sequence[Tensor | None]
) -> dict[int, int] | None:
    """Dimensions that are not indexed, and where they are in what is put in.

    From the right, below zero; None if dimensions apart are indexed.
    """
    # A mask takes as many dimensions as it has, and gives one; x[:, :, i] = y
    # has picks [None, None, i].
    taken: list[int] = []
    dim = given = 0
    for pick in picks:
        mask = pick is not None and pick.dtype in (torch.bool, torch.uint8)
        wide = pick.dim() if pick is not None and mask else 1
        if pick is not None:
            taken += range(dim, dim + wide)
            given = max(given, 1 if mask else pick.dim())
        dim += wide
    first, behind = taken[0], taken[-1] + 1
    if behind - first != len(taken):
        return None
    rank = target.dim() - len(taken) + given
    before = {d: d - rank for d in range(first)}
    after = {d: d - target.dim() for d in range(behind, target.dim())}
    return before | after


def written(tracer: Tracer, call: Call) -> None:
    """copy_: the destination takes the labels of the source."""
    target, source = call.args[0], call.args[1]
    labels = tracer.labels(source)
    if not tracer.knows_whole(target):
        tracer.freeze(labels, PART)
    # Broadcast from the right: dim 0 of [C] is dim 1 of [N, C].
    shift = target.dim() - source.dim()
    # Its shape stays that of what it was made like, or of a buffer: a channel
    # that is left alone would be broadcast over a buffer that kept two.
    for dim, axis in tracer.labels(target).axes.items():
        d = dim - shift
        if d >= 0 and source.shape[d] > 1:
            ids = ids_of(labels, d, source.shape[d])
            tracer.graph.unite(axis.ids, ids, INPUT_REASON)
    tracer.set(target, Labels({d + shift: a for d, a in labels.axes.items()}))


def restrided(tracer: Tracer, call: Call) -> None:
    """as_strided: a row of channels stays one, whatever its strides.

    Pooling to one pixel ends with it where channels come last.
    """
    source, shape, strides = call.args[:3]
    labels = tracer.labels(source)
    # [1, C, 1, 1] with any strides for the ones is the same C numbers in a row
    # if the storage has no others and neighbours stay neighbours.
    stored = source.untyped_storage().nbytes() // source.element_size()
    long = [d for d, size in enumerate(shape) if size > 1]
    row = len(long) == 1 and shape[long[0]] == stored and strides[long[0]] == 1
    # Or only the strides of dimensions differ that are one long.
    same = (
        list(shape) == list(source.shape)
        and all(strides[d] == source.stride(d) for d in long)
        and call.outputs()[0].storage_offset() == source.storage_offset()
    )
    if same or (row and list(labels.axes) == long):
        tracer.set(call.outputs()[0], labels.moved(dict(labels.axes)))
        return
    tracer.freeze(labels, LOST)
    tracer.set(call.outputs()[0], Labels())


def fresh(tracer: Tracer, call: Call) -> None:
    """zeros, new_zeros ...: of an argument only the type is read."""
    for output in call.outputs():
        tracer.set(output, Labels())


def alike(tracer: Tracer, call: Call) -> None:
    """zeros_like ...: a constant as wide as its argument is."""
    zero = call.op == 'aten::zeros_like'
    axes = tracer.labels(call.args[0]).axes
    tracer.set(
        call.outputs()[0],
        Labels({d: Axis(axis.ids, zero) for d, axis in axes.items()}),
    )


RULES = rules_of_aten(
    {
        moved: (
            'view _unsafe_view reshape _reshape_alias permute transpose t '
            'expand unsqueeze clone alias contiguous flip repeat '
            'detach lift_fresh pixel_shuffle pixel_unshuffle movedim '
            'swapaxes flatten unflatten diagonal rot90'
        ),
        squeezed: 'squeeze',
        shuffled: 'channel_shuffle native_channel_shuffle',
        shifted: 'roll unfold',
        copied: '_to_copy dropout native_dropout bernoulli',
        pieces: (
            'slice split split_with_sizes narrow chunk tensor_split '
            'unsafe_chunk unsafe_split unsafe_split_with_sizes'
        ),
        selected: 'select unbind',
        patched: 'im2col',
        folded: 'col2im',
        packed: '_pack_padded_sequence',
        padded: 'constant_pad_nd',
        concatenated: 'cat',
        stacked: 'stack',
        indexed: 'index _unsafe_index',
        put: 'index_put',
        written: 'copy',
        restrided: 'as_strided',
        fresh: (
            'new_zeros new_ones new_full new_empty new_empty_strided '
            'zeros ones full empty empty_strided'
        ),
        alike: (
            'zeros_like ones_like full_like empty_like rand_like randn_like'
        ),
    }
)
