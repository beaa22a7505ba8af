# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A bypass that becomes part of the filters beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..mixins import take_off
from ..plan.plan import ChannelPlan
from .branches import Bypassed
from .narrowed import PartialBypass


@torch.no_grad()
def merge_bypasses(model: nn.Module) -> dict[str, str | None]:
    r"""Adds bypasses to the filters of their convolutions, in place.

    Nothing lies between both, so that with :math:`B'`, the bypass as filters
    of the convolution's shape, :math:`W x + B x = (W + B') x` (as RepVGG does,
    arXiv 2101.03697). Layers that lost filters to a ``fill`` bypass keep it:
    it is all that some of their channels have.

    Args:
        model (nn.Module): A network that was narrowed.

    Returns:
        dict[str, str or None]: Every layer that had a bypass, with the
        reason if it keeps it.

    Examples:
        >>> from mmlapp.core import Bypass, attach, shrink
        >>> model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3))
        >>> x = torch.rand(1, 4, 9, 9)
        >>> pruner = attach(model, x, bypass=Bypass('depthwise'))
        >>> pruner.begin({'flops': 0.5}, steps=1)
        >>> pruner.step()
        >>> y = shrink(model, pruner.plan())(x)
        >>> merge_bypasses(model)
        {'0': None}
        >>> torch.testing.assert_close(model(x), y)
    """
    found: dict[str, str | None] = {}
    for name, conv in model.named_modules():
        if not isinstance(conv, Bypassed):
            continue
        if conv.bypass is not None:
            found[name] = _merge(conv)
        if conv.bypass is None:
            _unmix(conv)
    return found


def without_bypasses(
    plan: ChannelPlan, merged: dict[str, str | None], flops: float
) -> ChannelPlan:
    """Returns the plan of a network whose bypasses were merged.

    Args:
        plan (ChannelPlan): Its plan before.
        merged (dict[str, str or None]): What :func:`merge_bypasses` said.
        flops (float): Multiply-adds afterwards.
    """
    kept = {n: b for n, b in plan.bypasses.items() if merged.get(n)}
    counts = {**plan.flops, 'pruned': flops}
    return replace(plan, bypasses=kept, flops=counts)


def _merge(conv: Any) -> str | None:
    """Merges one bypass, or says why not."""
    if conv.kept is not None:
        return 'it fills removed filters'
    if conv.transposed or conv.groups > 1:
        return 'its convolution is grouped or transposed'
    added = torch.zeros_like(conv.weight)
    for part, rows, columns in _parts(conv.bypass):
        place = _place(conv, part)
        if place is None:
            return 'its kernel does not lie inside that of its convolution'
        # A view of the taps, [out, in, *small]; all pairs are different.
        index = slice(None), slice(None), *place
        taps = added[index]
        taps[rows[:, None], columns] = part.weight
    conv.weight += added
    conv.bypass = None
    return None


def _parts(bypass: Any) -> Iterator[tuple[_ConvNd, Tensor, Tensor]]:
    """Convolutions of a bypass, their outputs [out] and inputs [out, in]."""
    if not isinstance(bypass, PartialBypass):
        columns = _columns(bypass)
        yield bypass, torch.arange(len(columns)), columns
        return
    for i, conv in enumerate(bypass.convs):
        assert isinstance(conv, _ConvNd)
        inputs = bypass.get_buffer(f'inputs{i}').cpu()
        outputs = bypass.get_buffer(f'outputs{i}').cpu()
        yield conv, outputs, inputs[_columns(conv)]


def _columns(conv: _ConvNd) -> Tensor:
    """Which input every filter of a grouped convolution reads where."""
    rows, width = conv.weight.shape[:2]
    group = torch.arange(rows) // (rows // conv.groups)
    return group[:, None] * width + torch.arange(width)


def _place(conv: _ConvNd, part: _ConvNd) -> tuple[slice, ...] | None:
    """Where a kernel lies inside a larger one; None if it does not."""
    # A kernel of one pixel never sees the padding.
    alike = conv.padding_mode == part.padding_mode
    if conv.stride != part.stride or not (alike or max(part.kernel_size) == 1):
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
        # The first tap of the small kernel is so many of the large one's in.
        start, rest = divmod(int(pad) - int(inner), step)
        same = small == 1 or step == other
        if rest or not same or start < 0 or start + small > size:
            return None
        spans.append(slice(start, start + small))
    return tuple(spans)


def _unmix(conv: Any) -> None:
    """Makes it a convolution like any other."""
    del conv._modules['bypass'], conv._buffers['kept']
    take_off(conv, Bypassed)
