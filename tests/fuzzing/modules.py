# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules that networks at random are made of, beside those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Computed(nn.Module):
    """A parametrization that is a function.

    Args:
        function (Callable): From the stored weight to the one that is used.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the weight that is used."""
        return self.function(weight)


class Holding(nn.Module):
    """A convolution with a computed weight that its layer does not know.

    Args:
        layer (nn.Module): The convolution, never called.
        function (Callable): As above.
    """

    def __init__(
        self, layer: Any, function: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        """Returns a convolution that keeps the size."""
        call = getattr(functional, f'conv{x.dim() - 2}d')
        weight = self.function(self.layer.weight)
        y: Tensor = call(x, weight, self.layer.bias, padding='same')
        return y


class Standardising(nn.GroupNorm):
    """A norm over all but the batch, by hand: of one number it is 0 / 0.

    Args:
        channels (int): How many.
        affine (bool): Whether it has a scale and a shift. Defaults to True.
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__(1, channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what has a mean of zero and a deviation of one."""
        rows = x.flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
        y = rows.view_as(x).movedim(1, -1)
        if self.weight is not None:
            y = y * self.weight + self.bias
        return y.movedim(-1, 1)


class Own(nn.Module):
    """A function of all channels, with a scale and a shift.

    Args:
        channels (int): Number of channels.
        function (Callable): Is given the input and its shape, ``(channels,)``.
    """

    def __init__(
        self, channels: int, function: Callable[[Tensor, Any], Tensor]
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.shape, self.function = (channels,), function

    def forward(self, x: Tensor) -> Tensor:
        """Returns as many channels."""
        return self.function(x, self.shape) * self.scale + self.shift
