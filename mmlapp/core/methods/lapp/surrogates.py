# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Surrogate derivatives of the step that turns scores into a mask."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ...choices import Choices
from ...numbers import check_number


class Surrogate(ABC):
    """A smooth stand-in for the step ``1[x > 0]``, x = score - threshold.

    Args:
        width (float): Range of x over which the derivative is spread.
            Defaults to 0.1.

    Raises:
        PruningError: If ``width`` is not positive.
    """

    def __init__(self, width: float = 0.1) -> None:
        # A range of score minus threshold.
        check_number('surrogate width', width, above=0)
        self.width = width

    @abstractmethod
    def relaxed(self, x: Tensor) -> Tensor:
        """The stand-in itself, in [0, 1] and the shape of ``x``."""

    @abstractmethod
    def slope(self, x: Tensor) -> Tensor:
        """Its derivative, in the shape of ``x``."""


SURROGATES: Choices[type[Surrogate]] = Choices('surrogate', Surrogate)


@SURROGATES.register('sigmoid')
class Sigmoid(Surrogate):
    r""":math:`\sigma(x / T)` (Learned Threshold Pruning, 2003.00075)."""

    def relaxed(self, x: Tensor) -> Tensor:
        """Returns the sigmoid."""
        return torch.sigmoid(x / self.width)

    def slope(self, x: Tensor) -> Tensor:
        """Returns the sigmoid's derivative."""
        # d/dx sigmoid(x / T) = p (1 - p) / T.
        p = self.relaxed(x)
        return p * (1 - p) / self.width


@SURROGATES.register('longtail')
class LongTail(Surrogate):
    """Dynamic Sparse Training's estimator (2005.06870), scaled to a width.

    With u = x / width the published slope is 2 - 4|u| up to 0.4, 0.4 up to
    1, then 0. Its area is 1.44; divided by that it belongs to a step of
    height one.
    """

    # Both sides of 0.48 up to 0.4 and 0.4 * 0.6 up to 1: 2 * 0.72.
    AREA = 1.44

    def relaxed(self, x: Tensor) -> Tensor:
        """Returns the integral of the slope, one half at zero."""
        u = (x / self.width).clamp(-1, 1)
        a = u.abs()
        # Integrals of 2 - 4a up to 0.4, where it is 0.48, and of 0.4 then.
        inner = 2 * a - 2 * a.square()
        outer = 0.48 + 0.4 * (a - 0.4)
        half = torch.where(a <= 0.4, inner, outer) / self.AREA
        return 0.5 + u.sign() * half

    def slope(self, x: Tensor) -> Tensor:
        """Returns the published piecewise linear derivative, scaled."""
        # By the chain rule du/dx = 1 / width, hence the width below.
        a = (x / self.width).abs()
        inner = torch.where(a <= 0.4, 2 - 4 * a, 0.4)
        return torch.where(a <= 1, inner, 0.0) / (self.AREA * self.width)


@SURROGATES.register('clipped')
class Clipped(Surrogate):
    """Clipped straight-through: a ramp of the given half width."""

    def relaxed(self, x: Tensor) -> Tensor:
        """Returns the ramp from 0 at -width to 1 at +width."""
        return (0.5 + x / (2 * self.width)).clamp(0, 1)

    def slope(self, x: Tensor) -> Tensor:
        """Returns the ramp's derivative."""
        # Base 2 width, height 1 / (2 width): the area of a step of height 1.
        return (x.abs() <= self.width).to(x.dtype) / (2 * self.width)
