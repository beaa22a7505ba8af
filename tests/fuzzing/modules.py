# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules that networks at random are made of, beside those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
