# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What all layers with parameters have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..labels import Axis, Labels
from ..record import INPUT_REASON, LayerCall, Site
from ..tracer import Tracer

NOT_ZERO = 'contracted where it is not zero'


def check_zero(
    tracer: Tracer, left: Axis | None, right: Labels, row: int
) -> None:
    """Sees to it that a contraction has a zero on one of its sides.

    Args:
        tracer (Tracer): Receives readers to mask, or what is frozen.
        left (Axis, optional): What is read.
        right (Labels): Of the weight, or of the other factor.
        row (int): Its contracted dimension.
    """
    # sum_c x[c] w[c]: a removed c adds nothing if x[c] or w[c] is zero. The
    # weight can be masked where it reads; two activations cannot.
    other = right.axes.get(row)
    if left is None or other is None or other.zero:
        return
    record = tracer.trace
    if right.maskable:
        readers = record.trusting if left.zero else record.readers
        readers.update(tracer.sites_of(other.ids))
    elif not left.zero:
        tracer.living.over(right, other.ids, NOT_ZERO)


def ids_of(labels: Labels, dim: int, size: int) -> Tensor:
    """Labels along one dimension, blank ones if it has none."""
    axis = labels.axes.get(dim)
    return torch.full((size,), -1) if axis is None else axis.ids


def all_but(labels: Labels, dim: int) -> Labels:
    """Labels along all dimensions but one."""
    return Labels({d: a for d, a in labels.axes.items() if d != dim})


def note_call(
    tracer: Tracer,
    op: str,
    tensors: tuple[Tensor, Tensor, Tensor],
    dims: Mapping[str, Tensor],
    name: str = '',
    **geometry: Any,
) -> None:
    """Records a call of a layer.

    Args:
        tracer (Tracer): Receives it.
        op (str): See :class:`LayerCall`.
        tensors (tuple[Tensor, Tensor, Tensor]): Input, weight or second
            factor, and output. Of a product the second factor is given as
            ``[..., in, out]``.
        dims (Mapping[str, Tensor]): Labels of the dimensions that may
            shrink.
        name (str): Where no parameter tells one. Defaults to none.
        **geometry (Any): Of a convolution.
    """
    inputs, weight, outputs = tensors
    labels = tracer.labels(weight)
    own = tracer.name(weight)
    if own is not None:
        name = own.rpartition('.')[0]
    elif labels.parameter and labels.axes:
        # A view such as W.T has no name. Its labels are still nodes of W, and
        # lead back to the layer that owns it.
        sites = tracer.sites_of(next(iter(labels.axes.values())).ids)
        name = sites[0].module if sites else name
    call = LayerCall(
        name,
        op,
        dims,
        tuple(inputs.shape),
        tuple(weight.shape),
        tuple(outputs.shape),
        geometry,
    )
    tracer.trace.calls.append(call)


def emit(
    tracer: Tracer,
    out: Tensor,
    dim: int,
    axis: Axis,
    bias: Tensor | None,
    others: Labels | None = None,
) -> None:
    """Sets fresh labels on a layer's output and registers the layer.

    Args:
        tracer (Tracer): The tracer.
        out (Tensor): The output.
        dim (int): Its dimension of channels.
        axis (Axis): Labels of the weight's output side, and whether masks
            can make it zero.
        bias (Tensor, optional): One number per output channel.
        others (Labels, optional): Labels of other dimensions. Defaults to
            none.
    """
    axis, maker = register(tracer, axis, bias)
    axes = {} if others is None else dict(others.axes)
    # No maker where ids are blank, as of a grouped transposed convolution: its
    # output is a constant to what reads it, which freezes what it meets.
    if maker is not None:
        axes[dim] = axis
    tracer.set(out, Labels(axes, maker=maker))


def register(
    tracer: Tracer, axis: Axis, bias: Tensor | None
) -> tuple[Axis, int | None]:
    """Registers what a layer emits, with its bias.

    Args:
        tracer (Tracer): The tracer.
        axis (Axis): Labels of the weight's output side, and whether masks
            can make it zero.
        bias (Tensor, optional): One number per output channel.

    Returns:
        tuple[Axis, int or None]: The same with what the bias changes, and
        the layer's number for ``Labels``; None if no parameter emits.
    """
    ids = axis.ids
    sites: list[Site] = tracer.sites_of(ids)
    if bias is not None:
        added = tracer.labels(bias)
        # The bias [out] goes with the rows of the weight. Masked like them it
        # is zero too; a computed one cannot be, so removed rows are not.
        shift = ids_of(added, 0, len(ids))
        tracer.graph.unite(ids, shift, INPUT_REASON)
        if not added.masks_to_zero(0):
            axis = Axis(ids, zero=False)
    if not sites:
        return axis, None
    if bias is not None:
        sites += tracer.sites_of(shift)
    return axis, tracer.make(sites)


def tie_own(tracer: Tracer, tensor: Tensor | None, ids: Tensor) -> None:
    """Ties dimensions of a module's own tensor with as many channels."""
    if tensor is None:
        return
    for axis in tracer.labels(tensor).axes.values():
        # Dimensions of size one have no labels: [C], [1, C] and [C, 1, 1, 1]
        # have this axis alone. Of another size it holds no channels.
        if axis.ids.numel() == ids.numel():
            tracer.graph.unite(ids, axis.ids, INPUT_REASON)
