# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tensors that share memory: what one is written, the others show."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import NO_CHANNEL, ChannelGraph
from .labels import Axis, Labels, gather_axis, spread

PART = 'written into a part of a tensor'
LOST = 'moved in a way that mixes channels with other dimensions'


def seen(
    graph: ChannelGraph,
    written: tuple[Tensor, Labels],
    other: tuple[Tensor, Labels],
) -> Labels | None:
    """Labels of a tensor behind a write into another one.

    ``y[:, :c] = x`` writes into a view of ``y``. What was counted there goes
    on counting; whether removed channels are zero tells what came.

    Args:
        graph (ChannelGraph): Receives ties, and what is frozen.
        written (tuple[Tensor, Labels]): What was written, with its labels
            since.
        other (tuple[Tensor, Labels]): A tensor on the same storage, with its
            labels before.

    Returns:
        Labels or None: None if they cannot be told.
    """
    target, new = written
    tensor, old = other
    # Places are counted in elements, of which bytes of another size have
    # others.
    if target.element_size() != tensor.element_size():
        return None
    covered = _covered(target, tensor)
    if not covered.any():
        return old
    axes = (*new.axes.values(), *old.axes.values())
    heads = any(axis.grid is not None for axis in axes)
    if heads or old.stale or old.once_read is not None:
        return None
    whole = bool(covered.all())
    come = _moved(graph, target, new, tensor)
    # Of a copy of parameters all of it is masked, but for what was written.
    result = Labels(parameter=old.parameter and new.parameter)
    for dim, axis in old.axes.items():
        now = come.pop(dim, None)
        if now is not None:
            here = now.ids != NO_CHANNEL
            graph.unite(axis.ids[here], now.ids[here], PART)
        masked = old.masks_to_zero(dim) or whole
        zero = now is not None and now.zero and masked
        result.axes[dim] = Axis(axis.ids, zero)
    for dim, axis in come.items():
        if whole:
            result.axes[dim] = axis
        else:
            # Its size is a number of the code, which stays.
            graph.freeze(axis.ids, PART)
    return result


def _covered(target: Tensor, tensor: Tensor) -> Tensor:
    """Which elements of a tensor lie where the target does."""
    memory = torch.zeros(_elements(target), dtype=torch.bool)
    _at(memory, target).fill_(True)
    return _at(memory, tensor)


def _moved(
    graph: ChannelGraph, target: Tensor, labels: Labels, tensor: Tensor
) -> dict[int, Axis]:
    """Labels of the target, as another tensor of its memory sees them."""
    found: dict[int, Axis] = {}
    for dim, axis in labels.axes.items():
        memory = torch.full((_elements(target),), NO_CHANNEL)
        _at(memory, target).copy_(spread(axis, dim, target.shape))
        moved = gather_axis(graph, _at(memory, tensor), axis.zero)
        if moved is None or moved[0] in found:
            graph.freeze(axis.ids, LOST)
        else:
            found[moved[0]] = moved[1]
    return found


def _at(memory: Tensor, tensor: Tensor) -> Tensor:
    """The part of a memory of other values that a tensor has of its own."""
    # Same offset and strides: every element stands where it lies in the
    # storage, whatever the shape says.
    return memory.as_strided(
        tensor.shape, tensor.stride(), tensor.storage_offset()
    )


def _elements(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()
