# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Random numbers that are the same for any number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .counts import GOLDEN

# Operators that fill a tensor with random numbers, or return one, with or
# without the underscore of in-place variants.
_NAMES = (
    'bernoulli cauchy exponential geometric log_normal normal poisson rand '
    'rand_like randn randn_like uniform'
)
DRAWS = {f'aten::{name}' for name in _NAMES.split()}
# Those that draw whole numbers between bounds, and how the bounds are called.
WHOLE = {f'aten::{name}' for name in ('randint', 'randint_like', 'random')}
ORDER = 'aten::randperm'
LOW, HIGH = ('low', 'from'), ('high', 'to')
# Without an upper bound: what any type of numbers holds.
SMALLEST_RANGE = 127


class SteadyDraws(TorchDispatchMode):
    """Lets every tensor that is drawn have one value.

    A narrowed network draws fewer numbers than its masked twin: with one
    value for each draw, both compute with the same noise. The values, within
    (0, 1) or the bounds of whole numbers, differ from draw to draw, so that
    what draws until it has another one comes to an end. An order that is
    drawn begins with the last.

    Examples:
        >>> import torch
        >>> with SteadyDraws():
        ...     torch.randn(2), torch.rand(3)
        (tensor([0.6180, 0.6180]), tensor([0.2361, 0.2361, 0.2361]))
    """

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = _name_of(func)
        if name in INSTEAD:
            return INSTEAD[name](_by_name(func, args, kwargs))
        out = func(*args, **(kwargs or {}))
        if not name:
            return out
        if name in WHOLE:
            given = _by_name(func, args, kwargs)
            out.fill_(_between(given, self._next()))
        elif name == ORDER:
            # [n]: n - 1, 0, 1, 2, ...
            out.copy_(torch.arange(len(out)).roll(1))
        elif out.is_floating_point():
            out.fill_(self._next())
        return out

    def _next(self) -> float:
        self._count += 1
        return self._count * GOLDEN % 1


@cache
def _name_of(func: Any) -> str:
    """Name of an operator that draws; empty of all others, of most."""
    name: str = func._schema.name
    if name in INSTEAD:
        return name
    name = name.removesuffix('_')
    return name if name in DRAWS | WHOLE | {ORDER} else ''


def _by_name(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **(kwargs or {})}


def _between(given: Mapping[str, Any], fraction: float) -> int:
    """A whole number from the lower bound to below the upper one."""
    low = next((given[name] for name in LOW if name in given), 0)
    high = next((given[name] for name in HIGH if name in given), None)
    width = SMALLEST_RANGE if high is None else high - low
    return int(low + math.floor(fraction * width))


def _dropout(given: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The kernel of GPUs: elsewhere dropout is made of other operators."""
    x, drops = given['input'], given.get('train') is not False
    # Nothing is dropped; the gradient, mask / (1 - p), says the same.
    out = x / (1 - given['p']) if drops else x.clone()
    return out, torch.ones_like(x, dtype=torch.bool)


def _rrelu(given: Mapping[str, Any]) -> Tensor:
    """Leaky ReLU of slopes that are drawn."""
    x: Tensor = given['self']
    slope = (given['lower'] + given['upper']) / 2
    # What the gradient is multiplied by as well.
    noise: Tensor = given['noise'].copy_(torch.where(x > 0, 1, slope))
    return x * noise


def _rrelu_in_place(given: Mapping[str, Any]) -> Tensor:
    out: Tensor = given['self'].copy_(_rrelu(given))
    return out


# What draws inside of a kernel.
INSTEAD: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    'aten::native_dropout': _dropout,
    'aten::rrelu_with_noise': _rrelu,
    'aten::rrelu_with_noise_': _rrelu_in_place,
}
