# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sizes that code reads as tensors, whose values exporters are to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

# Elements of a tensor whose value is worth computing while a graph is made: a
# size for each level of a pyramid, and what is computed from these. Torch
# stops at one element.
MOST = 64
# Where torch says so.
LIMITS = (
    ('torch._subclasses.fake_tensor', 'CONSTANT_NUMEL_LIMIT'),
    ('torch.fx.experimental.proxy_tensor', 'CONSTANT_NUMEL_LIMIT'),
)


@contextmanager
def known_sizes() -> Iterator[None]:
    """Lets exporters follow networks that compute with sizes in tensors.

    Deformable attention of several levels reads ``torch._shape_as_tensor``,
    multiplies heights by widths, and splits tensors at the products. Where
    sizes are fixed these are constants, as long as nobody forgets them.
    """
    with ExitStack() as stack:
        for module, name in LIMITS:
            owner = import_module(module)
            if hasattr(owner, name):  # not in every release
                stack.enter_context(_replaced(owner, name, MOST))
        shape = _shape_reader(torch._shape_as_tensor)
        stack.enter_context(_replaced(torch, '_shape_as_tensor', shape))
        yield


def _shape_reader(usual: Callable[[Tensor], Tensor]) -> Any:
    def read(tensor: Tensor) -> Tensor:
        sizes = list(tensor.shape)
        # A symbol stands for a size that is open.
        if all(isinstance(size, int) for size in sizes):
            return torch.tensor(sizes)
        return usual(tensor)

    return read


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
