# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Lightweight bypasses beside convolutions that are pruned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..choices import Table
from ..errors import PruningError
from ..mixins import mix_in

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


Conv = _ConvNd
Builder = Callable[[Conv], Conv]
BYPASSES: Table[Builder | None] = Table('bypass')


def register_bypass(name: str) -> Callable[[Builder], Builder]:
    """Adds a bypass under a name that configs can use.

    The function gets a convolution and returns a convolution without bias
    from the same input to the same output shape. For a layer that can have
    none it raises a ``ValueError`` that says why.

    Args:
        name (str): The name.
    """

    def add(builder: Builder) -> Builder:
        BYPASSES.register(name)(builder)
        return builder

    return add


BYPASSES.register('none')(None)


# Not those that torch or others derive from them, whose forward may differ.
KINDS: tuple[type[Conv], ...] = (
    nn.Conv2d,
    nn.Conv1d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def _kind(conv: nn.Module) -> type[Conv] | None:
    """The class of torch that a convolution is, without masks and mixins."""
    return next((kind for kind in KINDS if isinstance(conv, kind)), None)


def _beside(conv: Conv, groups: int) -> Conv:
    kind: Any = _kind(conv)
    extra = {'output_padding': conv.output_padding} if conv.transposed else {}
    bypass: Conv = kind(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=groups,
        bias=False,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
        **extra,
    )
    return bypass


@register_bypass('depthwise')
def depthwise(conv: Conv) -> Conv:
    """One filter per channel; the greatest common divisor where they differ.

    A convolution whose output width is no multiple of its input width (nor
    the reverse) gets as many groups as divide both.
    """
    return _beside(conv, math.gcd(conv.in_channels, conv.out_channels))


@register_bypass('grouped')
def grouped(conv: Conv) -> Conv:
    """Eight groups, or the greatest divisor of both widths below that."""
    shared = math.gcd(conv.in_channels, conv.out_channels)
    return _beside(conv, max(g for g in range(1, 9) if shared % g == 0))


@register_bypass('pointwise')
def pointwise(conv: Conv) -> Conv:
    """A 1x1 convolution with the same stride.

    Raises:
        PruningError: If the padding does not keep the 1x1 aligned.
    """
    if conv.transposed:
        raise PruningError('a transposed convolution has no pointwise bypass')
    same = tuple(
        d * (k - 1) // 2
        for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
    )
    if conv.padding != same or any(k % 2 == 0 for k in conv.kernel_size):
        raise PruningError(
            f'padding={conv.padding} of a {conv.kernel_size} convolution is '
            'not centred: a pointwise bypass would be shifted'
        )
    kind: Any = _kind(conv)
    bypass: Conv = kind(
        conv.in_channels,
        conv.out_channels,
        1,
        stride=conv.stride,
        bias=False,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    return bypass


def build_bypass(conv: nn.Module, kind: str) -> Conv | str:
    """Makes the bypass of one convolution, or says why it gets none.

    Args:
        conv (nn.Module): The convolution.
        kind (str): Name of the bypass.

    Returns:
        _ConvNd or str: The bypass, or the reason for none.
    """
    builder = BYPASSES[kind]
    if builder is None:
        return 'no bypass was asked for'
    if not isinstance(conv, _ConvNd) or _kind(conv) is None:
        return f'{type(conv).__name__} takes no bypass'
    if isinstance(conv.padding, str):
        return f'padding={conv.padding!r}'
    if conv.groups == conv.in_channels and conv.groups > 1:
        return 'it is depthwise itself'
    try:
        bypass = builder(conv)
    except ValueError as error:
        return str(error)
    _check_bypass(conv, bypass, kind)
    cost = bypass.weight.numel() / conv.weight.numel()
    if cost > 0.5:
        return f'a {kind} bypass would cost {cost:.0%} of the layer'
    return bypass


def _check_bypass(conv: Conv, bypass: nn.Module, kind: str) -> None:
    """Refuses what a registered function should not have returned."""
    if (
        not isinstance(bypass, _ConvNd)
        or bypass.bias is not None
        or bypass.in_channels != conv.in_channels
        or bypass.out_channels != conv.out_channels
    ):
        raise PruningError(
            f'bypass={kind!r} made {bypass} beside {conv}: expected a '
            'convolution without bias and with the same channels'
        )


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


def add_bypass(conv: nn.Module, bypass: nn.Module) -> None:
    """Puts a bypass beside a convolution, in place.

    Args:
        conv (nn.Module): The convolution; its class becomes a subclass and
            its state-dict keys stay.
        bypass (nn.Module): The branch to add.
    """
    mix_in(conv, Bypassed)
    conv.add_module('bypass', bypass)
    conv.register_buffer('kept', None)
