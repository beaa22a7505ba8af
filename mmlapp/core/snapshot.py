# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network that may be changed for a while, or compute in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

# What a module keeps in dictionaries of its own.
STORES = '_parameters', '_buffers', '_modules'


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Puts a network back as it was: classes, tensors and attributes.

    No tensor is copied, so whatever happens inside must replace tensors and
    not change them.

    Args:
        model (nn.Module): The network.
    """
    before = [
        (
            module,
            type(module),
            dict(module.__dict__),
            {name: dict(getattr(module, name)) for name in STORES},
        )
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, cls, attributes, stores in before:
            module.__class__ = cls
            module.__dict__.clear()
            module.__dict__.update(attributes)
            # The very dictionaries of before; they get their old entries too.
            for name, store in stores.items():
                module.__dict__[name].clear()
                module.__dict__[name].update(store)


@contextmanager
def exact(model: nn.Module) -> Iterator[None]:
    """Lets a network compute in float64 for a while.

    Where neighbours are ranked or the like, float32 rounding of one network
    may choose others than that of its equal.

    Args:
        model (nn.Module): The network.
    """

    def cast(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map_only(Tensor, _double, (args, kwargs))

    with restored(model):
        twins: dict[int, Tensor] = {}  # shared tensors stay shared
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, value in store.items():
                    if value is not None:
                        twin = twins.setdefault(id(value), _double(value))
                        store[name] = twin  # type: ignore[assignment]
        handle = model.register_forward_pre_hook(cast, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _double(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    double = tensor.detach().double()
    return nn.Parameter(double) if isinstance(tensor, nn.Parameter) else double
