# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Functions that tell what no operator does.

Some values leave the network for Python past every operator, and some
functions compute with the width of what they are given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..attention.fitted import VIEWS, sizes_of
from ..writes import HANDING_OUT
from .counted import Width, product_of
from .cuts import CUTTING
from .sized_functions import SIZES
from .tracer import Tracer

VALUE = 'made a Python value by {}'
SCALED = 'compared by attention, with a scale that is computed from its width'


def read_by_python(
    tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """What Python does with numbers cannot be seen: decide, or compute on."""
    tracer.freeze_read(args[0], f'Tensor.{func.__name__}', VALUE)


def attention(
    tracer: Tracer, func: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """Queries and keys of fewer channels would be scaled otherwise."""
    if kwargs.get('scale') is None:
        # By position or by name, the first two.
        for tensor in (*args, *kwargs.values())[:2]:
            width = tracer.labels(tensor).axes.get(tensor.dim() - 1)
            if width is not None:
                tracer.heads.over.append(width.ids)
                if tensor.dim() < 3 or tensor.shape[-3] == 1:
                    tracer.heads.single.append(width.ids)
                tracer.graph.freeze(width.ids, SCALED)


def asked_sizes(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> Sequence[Any] | None:
    """Sizes that a view is asked for, of every dimension; else None.

    Args:
        func (Callable): Any function.
        args (Sequence): Its arguments by position.
        kwargs (dict): Those by name.
    """
    if kwargs:
        return None
    if func in PRODUCTS:
        # A matrix times [.., heads, width] is one of all rows, which are cut
        # again behind it: as many as there are.
        return [-1] * max(x.dim() for x in args[:2])
    if func in VIEWS:
        return sizes_of(args)
    if func is Tensor.unflatten and len(args) == 3:
        x, dim, parts = args
        dim %= x.dim()
        return [*x.shape[:dim], *parts, *x.shape[dim + 1 :]]
    return None


# What PyTorch computes with views of its own.
PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__})
FUNCTIONS: dict[Any, Callable[..., None]] = {
    functional.scaled_dot_product_attention: attention,
    # Nothing is dispatched for them, as it is for item or equal.
    Tensor.__array__: read_by_python,
    Tensor.__dlpack__: read_by_python,
    Tensor.data_ptr: read_by_python,
    Tensor.numpy: read_by_python,
    Tensor.tolist: read_by_python,
}


def pad(
    x: Tensor, sizes: Sequence[int], mode: str, value: float | None
) -> Tensor:
    """Pads by joining, where PyTorch writes into parts of an empty tensor.

    Circular padding wraps around one dimension after the other.
    """
    if mode != 'circular' or min(sizes) < 0:
        return functional.pad(x, list(sizes), mode, value)
    # Pairs from the last dimension on.
    pairs = zip(sizes[::2], sizes[1::2], strict=True)
    for dim, (before, after) in zip(
        range(-1, -x.dim(), -1), pairs, strict=False
    ):
        size = x.shape[dim]
        # [0, 1, 2] with 1 before and 2 after: [2], [0, 1, 2], [0, 1].
        parts = (size - before, before), (0, size), (0, after)
        x = torch.cat([x.narrow(dim, *p) for p in parts if p[1]], dim)
    return x


def read_shape(tracer: Tracer, out: Any, tensor: Tensor, *_: Any) -> Any:
    """The shape, in numbers that know which channels they count."""
    return tracer.sizes.read(tensor, out)


def read_count(tracer: Tracer, out: Any, tensor: Tensor) -> Any:
    """How many there are, of a row: as many as its dimension has."""
    if tensor.dim() == 1:
        return tracer.sizes.read(tensor, tensor.shape)[0]
    tracer.trace.elements_counted |= bool(tracer.labels(tensor).axes)
    # No size: two tensors of as many elements may have any shapes.
    return product_of(tracer.sizes.read(tensor, tensor.shape))


def read_size(
    tracer: Tracer, out: Any, tensor: Tensor, dim: int | None = None
) -> Any:
    """All of the shape, or one number of it."""
    if dim is None:
        return tracer.sizes.read(tensor, out)
    return tracer.sizes.read(tensor, tensor.shape)[dim]


# What the shape of a tensor is asked for with.
SHAPES: dict[Any, Callable[..., Any]] = {
    Tensor.shape.__get__: read_shape,  # type: ignore[attr-defined]
    Tensor.size: read_size,
    Tensor.nelement: read_count,
    Tensor.numel: read_count,
}
# Functions that take their sizes from another tensor, and what they do then.
LIKE: dict[Any, Callable[..., Any]] = {
    Tensor.reshape_as: Tensor.reshape,
    Tensor.view_as: Tensor.view,
}
# With what a tensor tells its shape, to Python or to another function.
MEASURING = frozenset({*SHAPES, *LIKE, Tensor.__len__, Tensor.expand_as})
# What takes the place of a function while its operators are followed: it
# returns the same by other operators.
STAND_INS: dict[Any, Callable[..., Any]] = {functional.pad: pad}


class WatchFunctions(TorchFunctionMode):
    """Looks at functions before they become operators.

    Args:
        tracer (Tracer): The running tracer.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        path = self.tracer.trace.path
        path.call()
        # An attribute, which was not asked for by a call.
        if any(isinstance(argument, Width) for argument in args):
            path.ask()
        if func in HANDING_OUT:
            self.tracer.values.about_to_write(args[:1])
        if func in MEASURING:
            self.tracer.note_size((*args, *kwargs.values()))
        if func in LIKE and not self.tracer.quiet:
            func, args, kwargs = self._in_sizes(func, *args, **kwargs)
        rule = FUNCTIONS.get(func)
        if rule is not None and not self.tracer.quiet:
            with self.tracer.silence():
                rule(self.tracer, func, args, kwargs)
        if func in CUTTING:
            self.tracer.given = (*args[1:], *kwargs.values())
        heads = self.tracer.heads
        heads.begin_view(asked_sizes(func, args, kwargs))
        self.tracer.reductions.begin(func, args, sys._getframe())
        try:
            out = STAND_INS.get(func, func)(*args, **kwargs)
        finally:
            self.tracer.given, heads.sizes = (), None
        if self.tracer.quiet:
            return out
        if func is Tensor.__len__:
            self.tracer.sizes.read_length(*args)
        if func in SHAPES:
            return SHAPES[func](self.tracer, out, *args, **kwargs)
        if func in SIZES:
            with self.tracer.silence():
                self.tracer.sizes.note(func, args, kwargs, out)
        return out

    def _in_sizes(
        self, func: Any, tensor: Tensor, other: Tensor
    ) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Writes down the sizes that a function takes from another tensor."""
        sizes = self.tracer.sizes.read(other, other.shape)
        return LIKE[func], (tensor, sizes), {}
