# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes that a forward reads, as numbers that may count channels.

Where one of them is the size of a dimension of channels it follows these, see
:mod:`sizes`; the trial of the network tells whether all else agrees with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..forward_names import forward_names
from .blocks.registry import is_known
from .sizes import Source, Width
from .tracer import Tracer


@contextmanager
def counted_attributes(tracer: Tracer, model: nn.Module) -> Iterator[None]:
    """Lets the integers of blocks know that they are attributes.

    Those that a forward reads: others follow what they count, see
    :mod:`widths`. Blocks that are registered set their attributes themselves.

    Args:
        tracer (Tracer): The running tracer.
        model (nn.Module): The network.
    """
    modules = [m for m in model.modules() if not _sets_its_own(m)]
    names = frozenset().union(*(forward_names(m) for m in modules))
    kept: list[tuple[nn.Module, str, Any, Any]] = []
    for module in modules:
        for name, value in list(module.__dict__.items()):
            if name in names and count_of(value) is not None:
                counted = _counted(tracer, module, name, value)
                kept.append((module, name, value, counted))
                module.__dict__[name] = counted
    try:
        yield
    finally:
        for module, name, value, counted in kept:
            # What a forward has set itself stays.
            if module.__dict__.get(name) is counted:
                module.__dict__[name] = value
        for module in model.modules():
            for name, value in list(module.__dict__.items()):
                if type(value) is Width:
                    module.__dict__[name] = int(value)


@contextmanager
def uncounted(tracer: Tracer, model: nn.Module) -> Iterator[None]:
    """Leaves all numbers as they are.

    Args:
        tracer (Tracer): The running tracer.
        model (nn.Module): The network.
    """
    tracer.sizes.counting = False
    yield


def _sets_its_own(module: nn.Module) -> bool:
    library = type(module).__module__.startswith('torch.nn.')
    return library or is_known(module)


def _counted(tracer: Tracer, module: nn.Module, name: str, value: Any) -> Any:
    """The value of an attribute, with a number that knows its name."""
    count = count_of(value)
    assert count is not None
    full = f'{tracer.modules[id(module)]}.{name}'.lstrip('.')

    def labels() -> Tensor:
        site = tracer.site(full, 0, count, attribute=True)
        return torch.arange(site.start, site.start + site.size)

    return recounted(value, Width(count, Source(tracer.graph, labels, full)))


def count_of(value: Any) -> int | None:
    """Returns the number in an attribute that may count channels.

    Args:
        value (Any): Of the attribute: a number, or a shape of which one
            dimension alone is longer than one.

    Examples:
        >>> count_of(8), count_of((8, 1, 1)), count_of((3, 3)), count_of(1)
        (8, 8, None, None)
    """
    sizes = value if type(value) in (tuple, list) else [value]
    if not all(type(size) is int for size in sizes):
        return None
    wide = [size for size in sizes if size > 1]
    return wide[0] if len(wide) == 1 else None


def recounted(value: Any, count: int) -> Any:
    """Returns the value of such an attribute with another number.

    Args:
        value (Any): One in which :func:`count_of` finds a number.
        count (int): What takes its place.

    Examples:
        >>> recounted(8, 5), recounted((8, 1, 1), 5)
        (5, (5, 1, 1))
    """
    if not isinstance(value, (tuple, list)):
        return count
    return type(value)(count if size > 1 else size for size in value)
