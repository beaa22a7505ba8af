# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions in float64, all channels at once.

On a CPU PyTorch has no kernel for them: it runs one convolution for every
channel, which takes half of the time of a network on trial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..mixins import mix_in

# Most numbers in all windows together: beyond, copying them takes longer.
LARGEST = 2**22
# Columns from which on it is faster not to copy windows at all.
WIDE = 16


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a depthwise convolution of images.

    Args:
        module (nn.Module): Any module.
    """
    return (
        isinstance(module, nn.Conv2d)
        and 1 < module.groups == module.in_channels == module.out_channels
    )


def use_products(layer: nn.Module) -> None:
    """Lets a depthwise convolution compute as a product, in place.

    Args:
        layer (nn.Module): The convolution; its class becomes a subclass.
    """
    mix_in(layer, AsProduct)


class AsProduct:
    """Mixin of a convolution that is computed as a product if it can be.

    What is not depthwise, or does not fit, PyTorch computes or refuses.
    """

    def _conv_forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        assert isinstance(self, nn.Conv2d)
        if _is_known(self, x, weight, bias):
            return _product(self, x, weight, bias)
        out: Tensor = super()._conv_forward(x, weight, bias)  # type: ignore[misc]
        return out


def _is_known(
    layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None
) -> bool:
    """Whether it is one filter a channel, in float64 on a CPU."""
    return (
        x.dtype is weight.dtype is torch.float64
        and x.device.type == 'cpu'
        and x.dim() == weight.dim() == 4
        and x.shape[1] == weight.shape[0] == layer.groups > 1
        and weight.shape[1] == 1
        and (bias is None or bias.shape == weight.shape[:1])
        and layer.padding_mode == 'zeros'
        and not isinstance(layer.padding, str)
        and layer.dilation == (1, 1)
        and all(
            size + 2 * pad >= kernel
            for size, pad, kernel in zip(
                x.shape[2:], layer.padding, weight.shape[2:], strict=True
            )
        )
        and x.numel() * weight[0].numel() <= LARGEST
    )


def _product(
    layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    stride, padding = layer.stride, cast('tuple[int, int]', layer.padding)
    size = [
        (edge + 2 * pad - kernel) // step + 1
        for edge, pad, kernel, step in zip(
            x.shape[2:], padding, weight.shape[2:], stride, strict=True
        )
    ]
    if size[1] >= WIDE:
        out = _by_taps(x, weight, stride, padding, size)
    else:
        n, c = x.shape[:2]
        # [n, c kh kw, h' w'] -> [n, c, kh kw, h' w']
        windows = functional.unfold(
            x, weight.shape[2:], padding=padding, stride=stride
        ).view(n, c, -1, math.prod(size))
        # [c, 1, kh kw] @ [n, c, kh kw, h' w'] -> [n, c, 1, h' w']
        out = (weight.flatten(2) @ windows).view(n, c, *size)
    return out if bias is None else out + bias.view(-1, 1, 1)


def _by_taps(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """Adds up the image, shifted, for each number of a filter.

    Args:
        x (Tensor): The image, ``[n, c, h, w]``.
        weight (Tensor): ``[c, 1, kh, kw]``.
        stride (Sequence[int]): Of rows and columns.
        padding (Sequence[int]): Of rows and columns.
        size (Sequence[int]): Rows and columns of what it gives.
    """
    (down, right), (high, wide) = padding, size
    padded = functional.pad(x, (right, right, down, down))
    out = x.new_zeros(*x.shape[:2], high, wide)
    for i, j in product(*map(range, weight.shape[2:])):
        # Row i, i + s, .. of the padded image for row 0, 1, .. of the output.
        rows = slice(i, i + stride[0] * (high - 1) + 1, stride[0])
        columns = slice(j, j + stride[1] * (wide - 1) + 1, stride[1])
        # [n, c, h', w'] * [c, 1, 1]
        out.addcmul_(
            padded[..., rows, columns], weight[:, 0, i, j, None, None]
        )
    return out
