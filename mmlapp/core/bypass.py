# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Lightweight bypasses beside convolutions that are pruned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from .errors import PruningError
from .table import Table

PLACEMENTS = ('fill', 'narrow')


@dataclass(frozen=True)
class Bypass:
    """Which bypass every pruned convolution gets.

    Args:
        type (str): ``none``, ``depthwise``, ``pointwise``, ``grouped`` or
            a registered name. Defaults to ``none``.
        placement (str): ``narrow``: the bypass is narrowed with the
            convolution, channels vanish from the network. ``fill``: it keeps
            the full width, only the convolution's own filters are removed
            and no layer has to agree with another. Defaults to ``narrow``.

    Raises:
        PruningError: If a name is unknown.
    """

    type: str = 'none'
    placement: str = 'narrow'

    def __post_init__(self) -> None:
        BYPASSES[self.type]
        if self.placement not in PLACEMENTS:
            raise PruningError(
                f'placement={self.placement!r} is unknown; choose one of: '
                f'{", ".join(PLACEMENTS)}'
            )
        if self.type == 'none' and self.placement == 'fill':
            raise PruningError(
                "bypass type='none' cannot have placement='fill': nothing "
                'would fill the removed channels. Choose a type'
            )


Builder = Callable[[nn.Conv2d], nn.Conv2d]
BYPASSES: Table[Builder | None] = Table('bypass')


def register_bypass(name: str) -> Callable[[Builder], Builder]:
    """Adds a bypass under a name that configs can use.

    The function gets a convolution and returns a convolution without bias
    from the same input to the same output shape.

    Args:
        name (str): The name.
    """
    return BYPASSES.register(name)


BYPASSES.register('none')(None)


def _beside(conv: nn.Conv2d, groups: int) -> nn.Conv2d:
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=False,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )


@register_bypass('depthwise')
def depthwise(conv: nn.Conv2d) -> nn.Conv2d:
    """One filter per channel; the greatest common divisor where they differ.

    A convolution whose output width is no multiple of its input width (nor
    the reverse) gets as many groups as divide both.
    """
    return _beside(conv, math.gcd(conv.in_channels, conv.out_channels))


@register_bypass('grouped')
def grouped(conv: nn.Conv2d) -> nn.Conv2d:
    """Eight groups, or the greatest divisor of both widths below that."""
    return _beside(conv, math.gcd(8, conv.in_channels, conv.out_channels))


@register_bypass('pointwise')
def pointwise(conv: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution with the same stride.

    Raises:
        PruningError: If the padding does not keep the 1x1 aligned.
    """
    same = tuple(
        d * (k - 1) // 2
        for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
    )
    if conv.padding != same or any(k % 2 == 0 for k in conv.kernel_size):
        raise PruningError(
            f'padding={conv.padding} of a {conv.kernel_size} convolution is '
            'not centred: a pointwise bypass would be shifted'
        )
    return nn.Conv2d(
        conv.in_channels, conv.out_channels, 1,
        stride=conv.stride,  # type: ignore[arg-type]
        bias=False, device=conv.weight.device, dtype=conv.weight.dtype,
    )


def build_bypass(conv: nn.Module, kind: str) -> nn.Conv2d | str:
    """Makes the bypass of one convolution, or says why it gets none.

    Args:
        conv (nn.Module): The convolution.
        kind (str): Name of the bypass.

    Returns:
        nn.Conv2d or str: The bypass, or the reason for none.
    """
    builder = BYPASSES[kind]
    if builder is None:
        return 'no bypass was asked for'
    if not isinstance(conv, nn.Conv2d):
        return f'{type(conv).__name__} takes no bypass'
    if isinstance(conv.padding, str):
        return f'padding={conv.padding!r}'
    if conv.groups == conv.in_channels and conv.groups > 1:
        return 'it is depthwise itself'
    try:
        bypass = builder(conv)
    except PruningError as error:
        return str(error)
    cost = bypass.weight.numel() / conv.weight.numel()
    if cost > 0.5:
        return f'a {kind} bypass would cost {cost:.0%} of the layer'
    return bypass


class Bypassed:
    """Mixin of a convolution with a bypass: y = W(x) + B(x)."""

    bypass: nn.Module | None
    kept: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Adds both branches; a removed branch costs nothing."""
        if self.kept is None:
            y: Tensor = super().forward(x)  # type: ignore[misc]
            return y if self.bypass is None else self.bypass(x) + y
        assert self.bypass is not None
        y = self.bypass(x)
        if self.kept.numel():
            y = y.index_add(1, self.kept, super().forward(x))  # type: ignore[misc]
        return y


@cache
def _bypassed_class(cls: type[nn.Module]) -> type:
    body = {'__module__': cls.__module__, '__qualname__': cls.__qualname__}
    return type(cls.__name__, (Bypassed, cls), body)


def add_bypass(conv: nn.Module, bypass: nn.Module) -> None:
    """Puts a bypass beside a convolution, in place.

    Args:
        conv (nn.Module): The convolution; its class becomes a subclass and
            its state-dict keys stay.
        bypass (nn.Module): The branch to add.
    """
    conv.__class__ = _bypassed_class(type(conv))
    conv.add_module('bypass', bypass)
    conv.register_buffer('kept', None)


@dataclass(frozen=True)
class Part:
    """Groups of a narrowed bypass that kept equally many channels.

    Args:
        rows (Tensor): Dense output channels, shape ``[groups * out]``.
        columns (Tensor): Positions inside the group's inputs that each row
            reads, shape ``[groups * out, in]``.
        inputs (Tensor): Dense input channels, shape ``[groups * in]``.
        groups (int): Number of groups.
    """

    rows: Tensor
    columns: Tensor
    inputs: Tensor
    groups: int


def parts(
    groups: int, kept_in: Tensor, kept_out: Tensor
) -> Iterator[Part]:
    """Splits a grouped convolution into rectangular parts.

    Args:
        groups (int): Groups of the dense bypass.
        kept_in (Tensor): Input channels that live, bool ``[in]``.
        kept_out (Tensor): Output channels that live, bool ``[out]``.

    Yields:
        Part: One for every pair of counts that occurs.
    """
    inputs, outputs = kept_in.view(groups, -1), kept_out.view(groups, -1)
    counts = torch.stack([inputs.sum(1), outputs.sum(1)], dim=1)
    for n_in, n_out in counts.unique(dim=0).tolist():
        if n_in == 0 or n_out == 0:
            continue
        index = (counts == torch.tensor([n_in, n_out])).all(1).nonzero()[:, 0]
        columns = inputs[index].nonzero()[:, 1].view(-1, n_in)
        rows = outputs[index].nonzero()[:, 1].view(-1, n_out)
        yield Part(
            (rows + index[:, None] * outputs.shape[1]).reshape(-1),
            columns.repeat_interleave(n_out, dim=0),
            (columns + index[:, None] * inputs.shape[1]).reshape(-1),
            len(index),
        )


class PartialBypass(nn.Module):
    """A grouped bypass narrowed at both ends.

    Args:
        dense (nn.Conv2d): The bypass before.
        kept_in (Tensor): Input channels that live, bool ``[in]``.
        kept_out (Tensor): Output channels that live, bool ``[out]``.
    """

    def __init__(
        self, dense: nn.Conv2d, kept_in: Tensor, kept_out: Tensor
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.width = int(kept_out.sum())
        position_in = kept_in.long().cumsum(0) - 1
        position_out = kept_out.long().cumsum(0) - 1
        for i, part in enumerate(parts(dense.groups, kept_in, kept_out)):
            self.convs.append(_part_conv(dense, part))
            self.register_buffer(f'inputs{i}', position_in[part.inputs])
            self.register_buffer(f'outputs{i}', position_out[part.rows])

    def forward(self, x: Tensor) -> Tensor:
        """Runs every part and puts its channels in their places."""
        y: Tensor | None = None
        for i, conv in enumerate(self.convs):
            part = conv(x.index_select(1, getattr(self, f'inputs{i}')))
            if y is None:
                n, _, h, w = part.shape
                y = part.new_zeros(n, self.width, h, w)
            y = y.index_add(1, getattr(self, f'outputs{i}'), part)
        assert y is not None
        return y


def _part_conv(dense: nn.Conv2d, part: Part) -> nn.Conv2d:
    conv = nn.Conv2d(
        len(part.inputs), len(part.rows),
        dense.kernel_size,  # type: ignore[arg-type]
        stride=dense.stride,  # type: ignore[arg-type]
        padding=dense.padding,  # type: ignore[arg-type]
        dilation=dense.dilation,  # type: ignore[arg-type]
        groups=part.groups, bias=False, padding_mode=dense.padding_mode,
        device=dense.weight.device, dtype=dense.weight.dtype,
    )
    rows = part.rows[:, None].to(dense.weight.device)
    columns = part.columns.to(dense.weight.device)
    with torch.no_grad():
        conv.weight.copy_(dense.weight[rows, columns])
    return conv


def pair_channels(
    groups: int, inputs: Tensor, outputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Lists the channel pairs that a grouped convolution joins.

    Args:
        groups (int): Number of groups.
        inputs (Tensor): Global channel of every input, ``[in]``.
        outputs (Tensor): Global channel of every output, ``[out]``.

    Returns:
        tuple[Tensor, Tensor]: Both ends of each pair.
    """
    a = inputs.view(groups, 1, -1)
    b = outputs.view(groups, -1, 1)
    a, b = torch.broadcast_tensors(a, b)
    return a.reshape(-1), b.reshape(-1)


def narrow_bypass(
    conv: nn.Module, kept_in: Tensor, kept_out: Tensor
) -> None:
    """Narrows the bypass of a convolution with the channels around it.

    Args:
        conv (nn.Module): A convolution with a bypass.
        kept_in (Tensor): Input channels that live, bool ``[in]``.
        kept_out (Tensor): Output channels that live, bool ``[out]``.
    """
    dense = conv.bypass
    assert isinstance(dense, nn.Conv2d)
    if kept_in.all() and kept_out.all():
        return
    partial = PartialBypass(dense, kept_in, kept_out)
    bypass: nn.Module | None = partial
    if not len(partial.convs):
        bypass = None
    elif len(partial.convs) == 1 and _is_plain(partial, int(kept_in.sum())):
        bypass = partial.convs[0]
    conv.bypass = bypass  # type: ignore[assignment]
    if bypass is not None:
        bypass.train(dense.training)


def _is_plain(partial: PartialBypass, width_in: int) -> bool:
    """Whether one part reads all inputs and writes all outputs in order."""
    return torch.equal(
        partial.inputs0.cpu(), torch.arange(width_in)  # type: ignore[union-attr]
    ) and torch.equal(
        partial.outputs0.cpu(), torch.arange(partial.width)  # type: ignore[union-attr]
    )


