# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One kernel written into another that covers it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import LayerRefusedError, PruningError
from .split import SplitConv


@torch.no_grad()
def merge_convolution(
    layer: nn.Module, conv: nn.Module, norm: nn.Module | None
) -> None:
    r"""Adds a convolution to the filters of a larger one, in place.

    With :math:`B'`, the convolution as filters of the layer's shape,
    :math:`W x + B x = (W + B') x`. A norm behind it scales its filters by
    :math:`\gamma / \sqrt{\sigma^2 + \epsilon}` and shifts by
    :math:`\beta - \mu \gamma / \sqrt{\sigma^2 + \epsilon}`.

    Args:
        layer (nn.Module): The convolution that covers the other one.
        conv (nn.Module): A convolution or a :class:`SplitConv`.
        norm (nn.Module, optional): The BatchNorm behind ``conv``, with its
            running statistics.

    Raises:
        PruningError: If both together are no convolution of the layer's
            form.
    """
    target: Any = layer
    _check_plain(target)
    added = torch.zeros_like(target.weight)
    for part, rows, columns in _parts(conv):
        offset = _inside(target, part)
        # A view of the taps, [out, in, *small]; all pairs are different.
        index = slice(None), slice(None), *offset
        taps = added[index]
        # part.weight[r, j] goes to row rows[r], column columns[r, j].
        taps[rows[:, None], columns] = part.weight
    if norm is not None:
        # W x + s (B x) + t: only what was added is scaled, so W comes last.
        scale, shift = _affine(norm)
        # [out] -> [out, 1, 1, ...]
        added *= scale.view(-1, *[1] * (added.dim() - 1))
        if target.bias is None:
            add_bias(target)
        target.bias += shift
    target.weight += added


def add_bias(layer: Any) -> None:
    """Gives a convolution a bias, of zeros.

    Args:
        layer (nn.Module): One without.
    """
    weight = layer.weight
    layer.bias = nn.Parameter(weight.new_zeros(layer.out_channels))


def check_mergeable(layer: nn.Module, conv: nn.Module) -> None:
    """Refuses a convolution that could not be merged into another one.

    Args:
        layer (nn.Module): The convolution that has to cover it.
        conv (nn.Module): The other one.

    Raises:
        LayerRefusedError: With the reason.
    """
    try:
        _check_plain(layer)
        _inside(layer, conv)
    except PruningError as error:
        raise LayerRefusedError(f'merge=True: {error}') from error


def _check_plain(layer: Any) -> None:
    if layer.transposed or layer.groups > 1:
        raise PruningError('its convolution is grouped or transposed')


def _inside(layer: Any, part: Any) -> tuple[slice, ...]:
    """Where a kernel lies inside a larger one."""
    offset = _offset(layer, part)
    if offset is None:
        raise PruningError(
            'its kernel does not lie inside that of its convolution'
        )
    return offset


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift of a norm in evaluation mode, each ``[out]``."""
    scale = (norm.running_var + norm.eps).rsqrt() * norm.weight
    return scale, norm.bias - norm.running_mean * scale


def _parts(bypass: nn.Module) -> Iterator[tuple[_ConvNd, Tensor, Tensor]]:
    """Convolutions of a bypass, their outputs [out] and inputs [out, in]."""
    if not isinstance(bypass, SplitConv):
        assert isinstance(bypass, _ConvNd)
        columns = _columns(bypass)
        yield bypass, torch.arange(len(columns)), columns
        return
    for i, conv in enumerate(bypass.convs):
        assert isinstance(conv, _ConvNd)
        inputs = bypass.get_buffer(f'inputs{i}').cpu()
        outputs = bypass.get_buffer(f'outputs{i}').cpu()
        # The layer is narrow too: positions among its living channels.
        yield conv, outputs, inputs[_columns(conv)]


def _columns(conv: _ConvNd) -> Tensor:
    """Which input every filter of a grouped convolution reads where."""
    # Filter r is of group r // (out / groups), which reads the inputs from
    # group * width on: [out, 1] + [width] -> [out, width].
    # 4 filters, 2 groups, width 3: rows 0 1 read 0 1 2, rows 2 3 read 3 4 5.
    rows, width = conv.weight.shape[:2]
    group = torch.arange(rows) // (rows // conv.groups)
    return group[:, None] * width + torch.arange(width)


def _offset(conv: _ConvNd, part: _ConvNd) -> tuple[slice, ...] | None:
    """Where a kernel lies inside a larger one; None if it does not."""
    # A kernel of one pixel without padding never sees any.
    inside = max(part.kernel_size) == 1 and not any(map(int, part.padding))
    alike = inside or conv.padding_mode == part.padding_mode
    if conv.stride != part.stride or not alike:
        return None
    spans = []
    for size, small, pad, inner, step, other in zip(
        conv.kernel_size,
        part.kernel_size,
        conv.padding,
        part.padding,
        conv.dilation,
        part.dilation,
        strict=True,
    ):
        # Tap j of a kernel reads o * stride - padding + j * dilation.
        # The first tap of the small kernel is so many of the large one's in.
        # 1x1 without padding in 3x3 with padding 1: start 1, the middle.
        start, rest = divmod(int(pad) - int(inner), step)
        same = small == 1 or step == other
        if rest or not same or start < 0 or start + small > size:
            return None
        spans.append(slice(start, start + small))
    return tuple(spans)
