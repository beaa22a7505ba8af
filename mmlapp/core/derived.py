# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What modules compute from their tensors and keep for the next call.

In evaluation some keep a table of biases, laid out, in a dictionary. It is
good as long as the parameters are what they were. PyTorch tells a module that
they are not by ``_apply``, as it does where a network moves to a GPU. Others
lay such a table out when they are told, by ``train(False)``, that evaluation
begins.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .forward_names import names_read
from .held import DICTIONARIES, OWN

# Containers that a module keeps, and what was in each.
Contents = list[tuple[Any, Any]]
# Those that grow.
KEPT = *DICTIONARIES, list, set, deque
LOOKED_INTO = frozenset((*KEPT, tuple))
# Those of plain numbers, which hold nothing else.
OF_NUMBERS = frozenset((array, bytearray))
PUT_BACK = LOOKED_INTO | OF_NUMBERS
# Dictionaries of PyTorch in which hooks are, and which of them take keywords
# or are always called: a forward may add some.
HOOKS = frozenset(name for name in OWN if '_hooks' in name)


def forget_derived(modules: Iterable[nn.Module]) -> None:
    """Tells modules that keep something that their tensors have changed.

    Those that have an ``_apply`` of their own; PyTorch's have nothing to
    forget. In evaluation others lay out again what they keep.

    Args:
        modules (Iterable[nn.Module]): All modules of a network.
    """
    for module in modules:
        method = type(module)._apply
        if method is not nn.Module._apply and not _is_library(module):
            module._apply(_same)
        _lay_out(module)


def lay_out(modules: Iterable[nn.Module]) -> None:
    """Lets modules compute what they compute when evaluation begins.

    For modes that were set one by one; they stay what they are.

    Args:
        modules (Iterable[nn.Module]): All modules of a network.
    """
    for module in modules:
        _lay_out(module)


def _lay_out(module: nn.Module) -> None:
    kind: Any = type(module)
    if module.training or kind.train is nn.Module.train:
        return
    # Other methods of that name freeze stages and the like.
    read = names_read(kind, 'train')
    if read.isdisjoint((*module._parameters, *module._buffers)):
        return
    modes = [(part, part.training) for part in module.modules()]
    module.train(False)
    for part, mode in modes:
        part.training = mode


@contextmanager
def contents_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Puts containers of modules back as they were.

    Args:
        modules (Iterable[nn.Module]): All modules of a network.
    """
    before = contents_of(modules)
    try:
        yield
    finally:
        put_contents_back(before)


def contents_of(modules: Iterable[nn.Module]) -> Contents:
    """Returns what is in dictionaries, lists, sets and arrays of modules.

    Args:
        modules (Iterable[nn.Module]): All modules of a network.
    """
    return [
        (value, value[:] if type(value) in OF_NUMBERS else value.copy())
        for module in modules
        for key, held in vars(module).items()
        if type(held) in PUT_BACK and (key not in OWN or key in HOOKS)
        for value in _containers(held)
    ]


def _containers(value: Any) -> Iterator[Any]:
    """A container, and those that are in it."""
    if type(value) in OF_NUMBERS:
        yield value
        return
    if type(value) in KEPT:
        yield value
    for part in _parts(value):
        if type(part) in PUT_BACK:
            yield from _containers(part)


def put_contents_back(before: Contents) -> None:
    """Puts back what was in dictionaries, lists, sets and arrays.

    Args:
        before (list): From :func:`contents_of`.
    """
    for value, content in before:
        if type(value) in OF_NUMBERS:
            if value != content:
                value[:] = content
            continue
        known = zip(_parts(value), _parts(content), strict=False)
        same = len(value) == len(content)
        if not same or any(a is not b for a, b in known):
            value.clear()
            grow = value.update if hasattr(value, 'update') else value.extend
            grow(content)


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _is_library(module: nn.Module) -> bool:
    """Whether PyTorch's own ``_apply`` is the nearest one."""
    owner = next(c for c in type(module).__mro__ if '_apply' in vars(c))
    return owner.__module__.startswith('torch.')
