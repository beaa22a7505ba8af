# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions in float64, all channels at once.

On a CPU PyTorch has no kernel for them: it runs one convolution for every
channel, which takes half of the time of a network on trial.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..mixins import mix_in

# Most numbers in all windows together: beyond, copying them takes longer.
LARGEST = 2**22


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
    padding: Any = layer.padding
    (down, right), (kh, kw) = padding, weight.shape[2:]
    padded = functional.pad(x, (right, right, down, down))
    # [n, c, h, w] -> [n, c, h', w', kh, kw]
    rows = padded.unfold(2, kh, layer.stride[0])
    windows = rows.unfold(3, kw, layer.stride[1])
    n, c, high, wide = windows.shape[:4]
    # [n, c, h' w', kh kw] @ [c, kh kw, 1] -> [n, c, h' w', 1]
    flat = windows.reshape(n, c, high * wide, kh * kw)
    out = (flat @ weight.reshape(c, kh * kw, 1)).view(n, c, high, wide)
    return out if bias is None else out + bias.view(-1, 1, 1)
