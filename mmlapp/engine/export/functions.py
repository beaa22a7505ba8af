# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Custom autograd functions as what exporters can follow: their forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx


def _deform(
    context: Any,
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *rest: Any,
) -> Tensor:
    """``DeformConv2dFunction`` of MMCV."""
    window = stride, padding, dilation
    return _by_torchvision(x, offset, None, weight, None, *window)


def _deform_modulated(
    context: Any,
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *rest: Any,
) -> Tensor:
    """``ModulatedDeformConv2dFunction`` of MMCV."""
    window = stride, padding, dilation
    return _by_torchvision(x, offset, mask, weight, bias, *window)


def _by_torchvision(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *window: Any,
) -> Tensor:
    # The same computation, by an operator; groups follow from the shapes.
    deform: Any = import_module('torchvision.ops').deform_conv2d
    size = _size(x, weight, *window)
    offset = _read_as(offset, size)
    mask = None if mask is None else _read_as(mask, size)
    found: Tensor = deform(x, offset, weight, bias, *window, mask)
    return found


def _size(
    x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any
) -> list[int]:
    """Height and width of the output of a convolution."""
    pair: Any = import_module('torch.nn.modules.utils')._pair
    sizes = zip(
        x.shape[2:],
        weight.shape[2:],
        *map(pair, (stride, padding, dilation)),
        strict=True,
    )
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]


def _read_as(values: Tensor, size: list[int]) -> Tensor:
    """Values of another size, as kernels of MMCV read them.

    These take the values of each image one by one as if they had the size of
    the output, and leave the rest. DyHead gives a convolution of stride 2 the
    offsets of all pixels.
    """
    # [n, c, h, w] -> [n, c h w] -> [n, c height width] -> [n, c, height,
    # width]. Too few values are an error of torchvision.
    count = values.shape[1] * size[0] * size[1]
    if list(values.shape[2:]) == size or values[0].numel() < count:
        return values
    return values.flatten(1)[:, :count].unflatten(1, (values.shape[1], *size))


# Forwards with hidden kernels, by the name of their class; what takes their
# place gets the same arguments.
STAND_INS: dict[str, Callable[..., Any]] = {
    'DeformConv2dFunction': _deform,
    'ModulatedDeformConv2dFunction': _deform_modulated,
}


@contextmanager
def plain_functions() -> Iterator[None]:
    """Lets custom autograd functions run as the operators in their forward.

    Exporters do not need gradients. They know no such functions, and see
    nothing of kernels behind them.
    """
    # What `Function.apply` calls as `super().apply`, also where somebody has
    # kept a bound `apply`.
    base: Any = Function.__mro__[1]
    kept = vars(base).get('apply')
    base.apply = classmethod(_apply)
    try:
        yield
    finally:
        del base.apply
        if kept is not None:
            base.apply = kept


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    forward = STAND_INS.get(cls.__name__, cls.forward)
    if cls.setup_context is not Function.setup_context:
        return forward(*args, **kwargs)
    context: Any = FunctionCtx()
    context.needs_input_grad = (False,) * len(args)
    return forward(context, *args, **kwargs)
