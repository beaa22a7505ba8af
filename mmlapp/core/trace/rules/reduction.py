# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pooling, resizing, reductions and softmax."""

from __future__ import annotations

import math
import re
from collections.abc import Set
from dataclasses import replace

import torch
from torch.utils._pytree import tree_leaves

from ..call import Call
from ..labels import Axis, Labels
from ..record import INPUT_REASON
from ..rule import rules_of_aten
from ..tracer import Tracer
from .layer import ids_of


def pooled(tracer: Tracer, call: Call) -> None:
    """Spatial operators: batch and channel dimensions stay as they are."""
    source = call.args[0]
    labels = tracer.labels(source)
    # The name tells how many there are: [N, C, H, W] or [C, H, W] in 2d.
    first = source.dim() - int(re.findall(r'(\d)d', call.op)[0])
    for dim, axis in labels.axes.items():
        if dim >= first:
            tracer.graph.freeze(axis.ids, f'resized by {call.op}')
    kept = {d: a for d, a in labels.axes.items() if d < first}
    for output in call.outputs():
        tracer.set(output, Labels(dict(kept), constant=labels.constant))


def unpooled(tracer: Tracer, call: Call) -> None:
    """max_unpool: values go where the indices of a pooling say."""
    values, places = call.args[:2]
    # Both are [N, C, ..], and index c of one meets index c of the other.
    labels = tracer.labels(places)
    for dim, axis in tracer.labels(values).axes.items():
        ids = ids_of(labels, dim, places.shape[dim])
        tracer.graph.unite(axis.ids, ids, INPUT_REASON)
    pooled(tracer, call)


def sampled(tracer: Tracer, call: Call) -> None:
    """grid_sampler: where to read is told by two or three coordinates."""
    tracer.freeze(tracer.labels(call.args[1]), f'positions of {call.op}')
    pooled(tracer, call)


def reduced(tracer: Tracer, call: Call) -> None:
    """mean, sum, amax ... over dimensions; channels may only be summed."""
    source = call.args[0]
    rank = max(source.dim(), 1)
    # The position of ``dim`` differs: sum(x, dim) but norm(x, p, dim).
    names = [a.name for a in call.func._schema.arguments]
    dims = call.argument(names.index('dim'), 'dim') if 'dim' in names else []
    dims = [] if dims is None else dims
    dims = [dims] if isinstance(dims, int) else list(dims)
    over = {d % rank for d in dims} or set(range(rank))
    output = call.outputs()[0]
    keepdim = output.dim() == rank
    labels = tracer.labels(source)
    result = Labels(parameter=labels.parameter)
    for dim, axis in labels.axes.items():
        if dim not in over:
            # Without keepdim a dimension moves down by those gone before it.
            # [N, T, C] over 1 is [N, C], labels at 2 move to 1. Over -1 it is
            # [N, T], labels at 1 stay. Each channel is reduced by itself.
            shift = 0 if keepdim else sum(d < dim for d in over)
            if labels.maskable and _is_deviation(call):
                axis = _masked(tracer, axis)
            result.axes[dim - shift] = axis
        elif not _zeros_add_nothing(call) or not labels.masks_to_zero(dim):
            single = not labels.parameter and len(over & {*labels.axes}) == 1
            if not (single and tracer.reductions.can_skip(source, dim, axis)):
                reason = f'reduced over channels by {call.op}'
                tracer.living.over(labels, axis.ids, reason)
            rest = [source.shape[d] for d in over - {dim}]
            if _is_deviation(call) and math.prod(rest) == 1:
                # A single number has none: it is zero, or 0 / 0.
                tracer.trace.lasting.append((axis.ids, 2))
        elif labels.maskable:
            tracer.trace.readers.update(tracer.sites_of(axis.ids))
        elif len(over) < rank:
            # All summed up to one number is how unused tensors are kept in
            # the graph of a loss: x.sum() * 0.
            tracer.trace.summed.append(axis.ids)
    if labels.parameter and 'norm' in call.op:
        # Usually divided by: the norm of a masked filter is zero.
        for axis in result.axes.values():
            reason = f'measured by {call.op}'
            tracer.living.over(labels, axis.ids, reason)
    values = _constants(call, labels, over)
    for output, value in zip(call.outputs(), values, strict=True):
        tracer.set(output, replace(result, constant=value))


def _constants(
    call: Call, labels: Labels, over: Set[int]
) -> list[float | None]:
    """What the results are where all that is reduced is a constant."""
    source, outputs = call.args[0], call.outputs()
    constant = labels.constant
    across = bool(over & labels.axes.keys())
    if constant is None or across or source.is_complex():
        return [None] * len(outputs)
    # The variance is zero, a sum depends on how many there are.
    # On the CPU, whatever the network is on: it may have no values.
    number = torch.full((), constant, dtype=source.dtype)
    size = [size if d in over else 1 for d, size in enumerate(source.shape)]
    out = call.func(number.expand(size), *call.args[1:], **call.kwargs)
    values = [float(leaf.flatten()[0]) for leaf in tree_leaves(out)]
    return [value if math.isfinite(value) else None for value in values]


def _zeros_add_nothing(call: Call) -> bool:
    """Whether zeros change no result; a mean would divide by fewer."""
    if call.op in ('aten::norm', 'aten::linalg_vector_norm'):
        # Sums of powers, and the largest magnitude; not the smallest one.
        name = call.func._schema.arguments[1].name  # p or ord
        order = call.argument(1, name)
        return float(2 if order is None else order) >= 0
    return call.op in ('aten::sum', 'aten::nansum')


def _is_deviation(call: Call) -> bool:
    """Whether an operator is a standard deviation or a variance."""
    return 'std' in call.op or 'var' in call.op


def _masked(tracer: Tracer, axis: Axis) -> Axis:
    """Filters that are masked, so that their deviation is zero.

    Code divides by it: whether that is finite then is to be known.
    """
    tracer.trace.masked.update(tracer.sites_of(axis.ids))
    return Axis(axis.ids, zero=True)


def normalised(tracer: Tracer, call: Call) -> None:
    """softmax: values along its dimension depend on each other."""
    source = call.args[0]
    over = int(call.args[1]) % max(source.dim(), 1)
    labels = tracer.labels(source)
    result = Labels(parameter=labels.parameter)
    for dim, axis in labels.axes.items():
        if dim == over:
            reason = f'{call.op} over channels'
            tracer.living.over(labels, axis.ids, reason)
        # exp(0) / sum: a removed channel is not zero behind it.
        result.axes[dim] = replace(axis, zero=False)
    tracer.set(call.outputs()[0], result)


# One row for each number of spatial dimensions, and what has them all.
_POOL = (
    'max_pool1d avg_pool1d adaptive_avg_pool1d upsample_nearest1d '
    '_upsample_nearest_exact1d upsample_linear1d reflection_pad1d '
    'replication_pad1d '
    'max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d '
    'adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d '
    '_upsample_nearest_exact2d upsample_bilinear2d _upsample_bilinear2d_aa '
    'upsample_bicubic2d _upsample_bicubic2d_aa reflection_pad2d '
    'replication_pad2d '
    'max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d '
    'adaptive_max_pool3d upsample_nearest3d _upsample_nearest_exact3d '
    'upsample_trilinear3d reflection_pad3d replication_pad3d'
)
_REDUCE = (
    'mean sum nansum amax amin max min prod var std var_mean std_mean norm '
)
RULES = rules_of_aten(
    {
        pooled: _POOL,
        unpooled: 'max_unpool2d max_unpool3d',
        sampled: 'grid_sampler_2d grid_sampler_3d',
        reduced: _REDUCE + 'linalg_vector_norm argmax argmin any all',
        normalised: '_softmax _log_softmax _safe_softmax softmax log_softmax',
    }
)
