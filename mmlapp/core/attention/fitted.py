# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attention whose code takes the width of its heads from its input.

``x.reshape(B, N, C)`` with the ``C`` of the input fits where all heads
together are as wide as that, which fewer are not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..mixins import mix_in


def sizes_of(args: Sequence[Any]) -> Sequence[Any] | None:
    """Sizes that a view is asked for; None if they are not by position.

    Args:
        args (Sequence): A tensor and the sizes, in a sequence or not.
    """
    sizes = args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    # While PyTorch traces a forward for an export sizes are tensors, or
    # symbols where they are open.
    kinds = (int, Tensor, torch.SymInt)
    whole = all(isinstance(size, kinds) for size in sizes)
    return sizes if whole and sizes else None


# Ways to spell a view with all its sizes.
VIEWS: frozenset[Any] = frozenset({Tensor.reshape, Tensor.view, torch.reshape})


# Ways in which a size is divided that is a tensor.
DIVISIONS: frozenset[Any] = frozenset(
    {Tensor.__floordiv__, torch.floor_divide}
)


class HeadCount(int):
    """A number of heads; what is divided by it gives the width of one.

    ``C // num_heads`` with the ``C`` of the input is as wide as a head where
    all heads together are as wide as that, which fewer are not.

    Args:
        value (int): The number.
        width (int): Channels of a head.

    Examples:
        >>> heads = HeadCount(3, width=32)
        >>> heads + 1, 80 // heads, 80 / heads, 80 % heads
        (4, 32, 32.0, 0)
    """

    width: int

    def __new__(cls, value: int, width: int) -> HeadCount:
        """Makes the number; arguments as above."""
        count = super().__new__(cls, value)
        count.width = width
        return count

    def __rfloordiv__(self, other: Any) -> Any:
        return self.width

    def __rtruediv__(self, other: Any) -> Any:
        return float(self.width)

    def __rmod__(self, other: Any) -> Any:
        return 0

    def __reduce__(self) -> Any:
        return HeadCount, (int(self), self.width)


class FitsHeads:
    """Mixin of a module with fewer heads than its code is written for."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own forward, whose views fit its heads."""
        heads, width = self.__dict__['_heads']
        with _Fitting(heads, width):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


def fit_heads(
    module: nn.Module, heads: int, width: int, divisors: Sequence[str] = ()
) -> None:
    """Lets the views of a module fit its heads, in place.

    Args:
        module (nn.Module): The module; its class becomes a subclass.
        heads (int): Number of its heads.
        width (int): Channels of a head.
        divisors (Sequence[str]): Attributes that count heads, by which its
            forward divides to compute with their width. Defaults to none.
    """
    mix_in(module, FitsHeads)
    module.__dict__['_heads'] = heads, width
    for name in divisors:
        setattr(module, name, HeadCount(getattr(module, name), width))


class _Fitting(TorchFunctionMode):
    """Corrects the last size of views that do not fit."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Calls a function, views with sizes that fit."""
        if func in DIVISIONS and isinstance(args[1], HeadCount):
            return args[1].width
        if func in VIEWS and not kwargs:
            sizes = sizes_of(args)
            if sizes is not None:
                return func(args[0], self._fitted(args[0], list(sizes)))
        return func(*args, **(kwargs or {}))

    def _fitted(self, x: Tensor, sizes: list[Any]) -> list[Any]:
        *others, last = _numbers(sizes)
        *channels, elements = _numbers([*x.shape, x.numel()])
        # [.., heads, C / heads] of the dense C, where a head is as wide as
        # ever: of channels that all heads have.
        inner = self.heads * self.width
        by_heads = others[-1:] == [self.heads] and channels[-1] % inner == 0
        if -1 in (*others, last):
            wrong = by_heads and last not in (-1, self.width)
            return [*sizes[:-1], self.width] if wrong else sizes
        if math.prod(others) * last == elements:
            return sizes
        if by_heads and math.prod(others) * self.width == elements:
            return [*sizes[:-1], self.width]
        # [.., C], which is as many as there are.
        return [*sizes[:-1], -1]


def _numbers(sizes: Sequence[Any]) -> list[Any]:
    """What sizes are here; an export need not know, for it decides nothing.

    A symbol stays one: as a number it would close what is open.
    """
    if not torch.jit.is_tracing():  # type: ignore[attr-defined]
        return [_number(size) for size in sizes]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return [_number(size) for size in sizes]


def _number(size: Any) -> Any:
    return size if isinstance(size, torch.SymInt) else int(size)
