# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Branches that are a convolution from a layer's input to its output."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..errors import LayerRefusedError
from .branch import register_branch
from .normed import Conv, NormedConv

# Not those that torch or others derive from them, whose forward may differ.
KINDS: tuple[type[Conv], ...] = (
    nn.Conv2d,
    nn.Conv1d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


class ConvBranch(NormedConv):
    """A convolution without bias from the layer's input to its output.

    Args:
        layer (nn.Module): The convolution that it runs beside.
        norm (bool): Whether a BatchNorm follows it, as in branches that are
            merged at deployment (RepVGG, arXiv 2101.03697). Defaults to
            False.
        merge (bool): Whether it becomes part of the layer at deployment: it
            is free then, since budgets count the deployed network. Defaults
            to False.

    Raises:
        LayerRefusedError: If the layer can have none; with the reason.

    Examples:
        >>> import torch
        >>> class Halves(ConvBranch):
        ...     def make(self, layer):
        ...         return self.beside(layer, groups=2)
        >>> layer = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        >>> branch = Halves(layer, norm=True)
        >>> branch(torch.rand(2, 8, 9, 9)).shape  # that of the layer
        torch.Size([2, 6, 5, 5])
    """

    def __init__(
        self, layer: nn.Module, norm: bool = False, merge: bool = False
    ) -> None:
        checked = _check_layer(layer)
        super().__init__(checked, self.make(checked), norm, merge)

    @abstractmethod
    def make(self, layer: Conv) -> Conv:
        """Returns the convolution beside a layer.

        Args:
            layer (_ConvNd): The layer.

        Raises:
            LayerRefusedError: If a layer can have none; with the reason.
        """

    @staticmethod
    def beside(layer: Conv, groups: int) -> Conv:
        """Makes a convolution like the layer with another number of groups.

        Args:
            layer (_ConvNd): The layer.
            groups (int): A divisor of both its widths.

        Raises:
            LayerRefusedError: If it is none.
        """
        if layer.in_channels % groups or layer.out_channels % groups:
            raise LayerRefusedError(
                f'{groups} groups do not divide its channels, '
                f'{layer.in_channels} and {layer.out_channels}'
            )
        kind: Any = _kind(layer)
        extra = {}
        if layer.transposed:
            extra['output_padding'] = layer.output_padding
        made: Conv = kind(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=groups,
            bias=False,
            padding_mode=layer.padding_mode,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
            **extra,
        )
        return made


@register_branch('depthwise')
class Depthwise(ConvBranch):
    """One filter per channel; the greatest common divisor where they differ.

    A convolution whose output width is no multiple of its input width (nor
    the reverse) gets as many groups as divide both.
    """

    def make(self, layer: Conv) -> Conv:
        """Returns a convolution with as many groups as divide both widths."""
        # 64 -> 96: 32 groups of 2 inputs and 3 outputs each.
        groups = math.gcd(layer.in_channels, layer.out_channels)
        return self.beside(layer, groups)


@register_branch('grouped')
class Grouped(ConvBranch):
    """Eight groups, or the greatest divisor of both widths below that."""

    def make(self, layer: Conv) -> Conv:
        """Returns a grouped convolution."""
        shared = math.gcd(layer.in_channels, layer.out_channels)
        # 12 -> 20: gcd 4, so 4 groups. 10 -> 15: 5. 64 -> 64: 8.
        groups = max(g for g in range(1, 9) if shared % g == 0)
        return self.beside(layer, groups)


@register_branch('pointwise')
class Pointwise(ConvBranch):
    """A 1x1 convolution with the same stride."""

    def make(self, layer: Conv) -> Conv:
        """Returns a 1x1 convolution.

        Raises:
            LayerRefusedError: If the padding does not keep the 1x1 aligned.
        """
        if layer.transposed:
            raise LayerRefusedError('it is a transposed convolution')
        # Output o of the layer is centred at input
        # o * stride - padding + dilation * (kernel - 1) / 2, that of a 1x1 at
        # o * stride: equal where the padding makes up for the reach.
        same = tuple(
            d * (k - 1) // 2
            for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        )
        even = any(k % 2 == 0 for k in layer.kernel_size)
        if layer.padding != same or even:
            raise LayerRefusedError(
                f'padding={layer.padding} of a {layer.kernel_size} '
                'convolution is not centred: 1x1 would be shifted'
            )
        kind: Any = _kind(layer)
        made: Conv = kind(
            layer.in_channels,
            layer.out_channels,
            1,
            stride=layer.stride,
            bias=False,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        return made


def _kind(conv: nn.Module) -> type[Conv] | None:
    """The class of torch that a convolution is, without masks and mixins."""
    return next((kind for kind in KINDS if isinstance(conv, kind)), None)


def _check_layer(layer: nn.Module) -> Conv:
    """Returns a convolution beside which another one can run."""
    if not isinstance(layer, _ConvNd) or _kind(layer) is None:
        raise LayerRefusedError(f'{type(layer).__name__} takes no bypass')
    if isinstance(layer.padding, str):
        raise LayerRefusedError(f'padding={layer.padding!r}')
    if layer.groups == layer.in_channels and layer.groups > 1:
        raise LayerRefusedError('it is depthwise itself')
    return layer
