# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Labels: which channel every index of a tensor's dimensions belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .graph import NO_CHANNEL, ChannelGraph

EMPTY = 'of a selection that has no elements on the example'


@dataclass(frozen=True)
class Axis:
    """Labels along one dimension of a tensor.

    Args:
        ids (Tensor): Channel node of every index, int64 of shape ``[size]``.
        zero (bool): Whether the elements of a removed channel are exactly
            zero here while the channel is masked. Defaults to True.
        grid (Tensor, optional): Labels of every element, in the shape of the
            tensor but for ones where they are the same, of which ``ids``
            stand for those that go together: of heads, which part of them is
            meant tells what comes next. Defaults to None.
    """

    ids: Tensor
    zero: bool = True
    grid: Tensor | None = None


@dataclass
class Labels:
    """Labelled dimensions of one tensor, and the layer that made it.

    Args:
        axes (dict[int, Axis]): Dimension to labels. Other dimensions carry
            no channel.
        maker (int, optional): Number of the convolution or linear call whose
            raw output this is. Defaults to None.
        parameter (bool): Whether the tensor was computed from parameters
            alone, such as a transposed weight. Defaults to False.
        maskable (bool): Whether masking a parameter masks this, as it does
            a view of it, but not what was computed from it or from a
            buffer. Defaults to False.
        stale (bool): Whether another view of its storage was changed in
            place since. Defaults to False.
        once_read (tuple[Tensor, str], optional): Labels that are frozen
            as soon as somebody reads the tensor, and why. Defaults to None.
        constant (float, optional): What elements of removed channels are
            while these are masked, as one behind a cosine. It tells where
            slopes are infinite, and promises nothing: what is zero is told
            by the axes. Defaults to None, not known.
    """

    axes: dict[int, Axis] = field(default_factory=dict)
    maker: int | None = None
    parameter: bool = False
    maskable: bool = False
    stale: bool = False
    once_read: tuple[Tensor, str] | None = None
    constant: float | None = None

    def moved(self, axes: dict[int, Axis]) -> Labels:
        """Labels of the same values at other places."""
        return Labels(
            axes,
            parameter=self.parameter,
            maskable=self.maskable,
            constant=self.constant,
        )

    def value(self, dim: int) -> float | None:
        """What elements of channels removed along a dimension are."""
        axis = self.axes.get(dim)
        if axis is None:
            return None
        return 0.0 if axis.zero else self.constant

    def masks_to_zero(self, dim: int) -> bool:
        """Whether removed indices can be made zero by masks."""
        axis = self.axes.get(dim)
        return self.maskable or (axis is not None and axis.zero)


def blank(size: int) -> Axis:
    """Labels of indices that belong to no channel."""
    return Axis(torch.full((size,), NO_CHANNEL), zero=False)


def spread(axis: Axis, dim: int, shape: Sequence[int]) -> Tensor:
    """Expands labels to a label tensor of a full shape, without a copy."""
    if axis.grid is not None:
        return axis.grid.expand(list(shape))
    # [C] at dim 1 of [N, C, H, W]: [1, C, 1, 1], then stride 0 elsewhere.
    view = [1] * len(shape)
    view[dim] = -1
    return axis.ids.view(view).expand(list(shape))


# Is given a label tensor, the dimensions along which it varies and the one
# that tells most channels apart; returns which one is kept, and whether it
# counts heads.
Keep = Callable[[Tensor, Sequence[int], int], tuple[int, bool]]


def gather_axis(
    graph: ChannelGraph,
    labels: Tensor,
    zero: bool,
    choose: Keep | None = None,
) -> tuple[int, Axis] | None:
    """Reads back along which dimension a label tensor varies.

    A tensor stays rectangular when channels are removed only if its labels
    vary along one dimension. Where they vary along several (a view of
    ``C`` into ``g x C/g``, tokens joined to a sequence, pixels shuffled)
    the one that tells most channels apart stays and the labels are tied
    across the others.

    Args:
        graph (ChannelGraph): Receives the ties.
        labels (Tensor): Label of every element.
        zero (bool): Passed on to the axis.
        choose (Callable, optional): Which dimension stays where several
            vary. Defaults to None: as above.

    Returns:
        tuple[int, Axis] or None: Dimension and labels, or None if the labels
        are the same everywhere, or there are none.
    """
    labels, varying = _reduced(labels)
    if not varying:
        return None
    # [C] viewed as [g, C/g] varies along both. If C/g > g, the last is kept:
    # C/g labels stay, and the same columns of every row are tied. Otherwise
    # the first is kept: g labels stay, and a whole row goes at once. Among
    # equals the shorter dimension wins (repeated labels tell no more), then
    # the later one.
    keep, *others = varying
    if others:
        keep = max(
            varying, key=lambda d: (_distinct(labels, d), -labels.shape[d], d)
        )
    grid = None
    if choose is not None and others:
        keep, heads = choose(labels, varying, keep)
        grid = labels if heads else None
    # [kept, all others]: one row for each index that stays. Its largest label
    # stands for it, the others of the row are tied to that one.
    # [0 .. 5] viewed as [2, 3]: rows [0, 3], [1, 4], [2, 5], ids [3, 4, 5].
    rows = labels.movedim(keep, 0).reshape(labels.shape[keep], -1)
    ids = rows.amax(dim=1)
    if rows.shape[1] > 1:
        # Indices outside any channel (spatial zero padding) tie nothing.
        seen = rows != NO_CHANNEL
        graph.unite(ids[:, None].expand_as(rows)[seen], rows[seen], 'tied')
    return keep, Axis(ids, zero, grid)


def _reduced(labels: Tensor) -> tuple[Tensor, list[int]]:
    """One label along dimensions where all are the same, and the others."""
    if not labels.numel():
        return labels, []
    for d in range(labels.dim()):
        # What spread() has expanded needs no look at all its elements: one
        # index stands for all, which keeps images cheap.
        if labels.stride(d) == 0:
            labels = labels.narrow(d, 0, 1)
    if labels.amin() != NO_CHANNEL:
        return _without_repeats(labels)
    varying = [d for d in range(labels.dim()) if _varies(labels, d)]
    for d in range(labels.dim()):
        if d not in varying:
            # Constant along d but for padding, which is below every label.
            labels = labels.amax(dim=d, keepdim=True)
    return labels, varying


def _without_repeats(labels: Tensor) -> tuple[Tensor, list[int]]:
    """As :func:`_reduced`, of labels without padding: one look at most."""
    varying = []
    for d in range(labels.dim()):
        # [.., 1, ..]: where all are equal to it, it stands for all.
        first = labels.narrow(d, 0, 1)
        if torch.equal(first.expand_as(labels), labels):
            labels = first
        else:
            varying.append(d)
    return labels, varying


def _gather_grid(
    graph: ChannelGraph, labels: Tensor, plain: Tensor, zero: bool
) -> tuple[int, Axis] | None:
    """Reads back what was cut into heads, which stay a dimension.

    Args:
        graph (ChannelGraph): Receives ties, if heads are cut once more.
        labels (Tensor): Label of every element.
        plain (Tensor): The same, with one label for each head.
        zero (bool): Passed on to the axis.
    """
    found = gather_axis(graph, plain, zero)
    if found is None:
        return None
    keep, _ = found
    labels, varying = _reduced(labels)
    if keep not in varying or len(_reduced(plain)[1]) > 1:
        return found
    # What goes together is tied already, so that any of it stands for all.
    ids = labels.movedim(keep, 0).flatten(1).amax(1)
    return keep, Axis(ids, zero, labels if len(varying) > 1 else None)


def move(
    graph: ChannelGraph,
    labels: Labels,
    shape: Sequence[int],
    operation: Callable[[Tensor], Tensor | Sequence[Tensor]],
    shapes: Sequence[Sequence[int]],
    reason: str,
    choose: Callable[[int], Keep] | None = None,
) -> list[Labels]:
    """Sends labels through an operation that only moves data.

    The operation is applied to the label tensor itself, so that views,
    permutations, shuffles and rolls need no rule of their own.

    Args:
        graph (ChannelGraph): Receives ties and frozen labels.
        labels (Labels): Labels of the input.
        shape (Sequence[int]): Shape of the input.
        operation (Callable): The operation, from tensor to tensor(s).
        shapes (Sequence[Sequence[int]]): Shapes of its outputs.
        reason (str): Why labels that cannot be followed are frozen.
        choose (Callable, optional): From a dimension of the input to what
            :func:`gather_axis` asks where it is cut. Defaults to None.

    Returns:
        list[Labels]: One entry per output.
    """
    outputs = [labels.moved({}) for _ in shapes]
    for dim, axis in labels.axes.items():
        # One axis at a time: an element of the moved label tensor tells which
        # index of this axis the element of the output came from.
        tensors = _moved(axis, dim, shape, operation, shapes)
        if tensors is None:
            graph.freeze(axis.ids, EMPTY)
            continue
        if axis.grid is None:
            keep = None if choose is None else choose(dim)
            found = [gather_axis(graph, t, axis.zero, keep) for t in tensors]
        else:
            heads = Axis(axis.ids, axis.zero)
            plain = _moved(heads, dim, shape, operation, shapes) or ()
            found = [
                _gather_grid(graph, t, p, axis.zero)
                for t, p in zip(tensors, plain, strict=True)
            ]
        for output, moved in zip(outputs, found, strict=True):
            # None: all labels of this output are the same, as behind x[:, :1].
            # Taken: two axes ended in one dimension, as behind a flatten of
            # channels with channels, where neither can shrink alone.
            if moved is None or moved[0] in output.axes:
                graph.freeze(axis.ids, reason)
            else:
                output.axes[moved[0]] = moved[1]
    return outputs


def _moved(
    axis: Axis,
    dim: int,
    shape: Sequence[int],
    operation: Callable[[Tensor], Tensor | Sequence[Tensor]],
    shapes: Sequence[Sequence[int]],
) -> list[Tensor] | None:
    """Moved label tensors; None where there is no element to tell them by."""
    if all(shape) and all(map(all, shapes)):
        result = operation(spread(axis, dim, shape))
        return [result] if isinstance(result, Tensor) else list(result)
    # A selection that is empty on the example is moved as one of a single
    # element: [0, C, 2] as [1, C, 2] ends as [1, 2 C], for [0, 2 C].
    try:
        result = operation(spread(axis, dim, [size or 1 for size in shape]))
    except (IndexError, RuntimeError):
        return None
    tensors = [result] if isinstance(result, Tensor) else list(result)
    wanted = [[size or 1 for size in sizes] for sizes in shapes]
    return tensors if [list(t.shape) for t in tensors] == wanted else None


def _varies(labels: Tensor, dim: int) -> bool:
    """Whether channels differ along a dimension; padding is no channel."""
    # Equal to the largest, or padding: [3, -1, 3] does not vary, [3, 4] does.
    high = labels.amax(dim=dim, keepdim=True)
    return bool(((labels != high) & (labels != NO_CHANNEL)).any())


def _distinct(labels: Tensor, dim: int) -> int:
    """Number of channels that a dimension tells apart."""
    lines = labels.movedim(dim, 0).reshape(labels.shape[dim], -1)
    return int(lines.amax(dim=1).unique().numel())


def tie_pieces(graph: ChannelGraph, axis: Axis, length: int) -> bool:
    """Ties equal pieces of an axis index by index.

    Args:
        graph (ChannelGraph): Receives the ties.
        axis (Axis): Labels of shape ``[size]``.
        length (int): Length of a piece.

    Returns:
        bool: False if ``size`` is no multiple of ``length``.
    """
    if length < 1 or axis.ids.numel() % length:
        return False
    # [C] as [C/L, L]: column j is index j of every piece; one goes, all go.
    # 6 in pieces of 2: [0, 1], [2, 3], [4, 5] tie 0, 2, 4 and 1, 3, 5.
    pieces = axis.ids.view(-1, length)
    graph.unite(pieces, pieces[:1], 'cut at a channel that is a constant')
    return True


def without_zero(labels: Labels) -> Labels:
    """Returns the labels with no promise that removed channels are zero."""
    axes = {d: replace(a, zero=False) for d, a in labels.axes.items()}
    return Labels(axes, parameter=labels.parameter)


def common_constant(entries: Iterable[Labels]) -> float | None:
    """What elements of removed channels are in all tensors that have some.

    Args:
        entries (Iterable[Labels]): Of tensors that are joined.

    Examples:
        >>> ids = torch.arange(3)
        >>> ones = Labels({1: Axis(ids, zero=False)}, constant=1.0)
        >>> common_constant([ones, Labels(), ones])
        1.0
        >>> common_constant([ones, Labels({1: Axis(ids)})])
    """
    found = {e.value(dim) for e in entries for dim in e.axes}
    return found.pop() if len(found) == 1 else None
