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
from torch.overrides import TorchFunctionMode

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


class Depthwise(TorchFunctionMode):
    """Computes depthwise convolutions of images as products.

    What it does not know, and what does not fit, PyTorch computes or refuses.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs a function, or what replaces it."""
        kwargs = kwargs or {}
        if func is torch.conv2d and _is_known(*args, **kwargs):
            return _products(*args, **kwargs)
        return func(*args, **kwargs)


def _is_known(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> bool:
    """Whether it is one filter a channel, given as layers give it."""
    return (
        type(x) is Tensor
        and isinstance(weight, Tensor)
        and x.dtype is weight.dtype is torch.float64
        and x.device.type == 'cpu'
        and x.dim() == weight.dim() == 4
        and x.shape[1] == weight.shape[0] == groups > 1
        and weight.shape[1] == 1
        and (bias is None or bias.shape == (groups,))
        and all(type(value) is tuple for value in (stride, padding, dilation))
        and dilation == (1, 1)
        and all(
            size + 2 * pad >= kernel
            for size, pad, kernel in zip(
                x.shape[2:], padding, weight.shape[2:], strict=True
            )
        )
        and x.numel() * weight[0].numel() <= LARGEST
    )


def _products(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    (down, right), (kh, kw) = padding, weight.shape[2:]
    padded = functional.pad(x, (right, right, down, down))
    # [n, c, h, w] -> [n, c, h', w', kh, kw]
    windows = padded.unfold(2, kh, stride[0]).unfold(3, kw, stride[1])
    n, c, high, wide = windows.shape[:4]
    # [n, c, h' w', kh kw] @ [c, kh kw, 1] -> [n, c, h' w', 1]
    flat = windows.reshape(n, c, high * wide, kh * kw)
    out = (flat @ weight.reshape(c, kh * kw, 1)).view(n, c, high, wide)
    return out if bias is None else out + bias.view(-1, 1, 1)
