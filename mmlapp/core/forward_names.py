# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which attributes methods of a module read, told from their code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

# Where no code does what :func:`asks_in_training` looks for.
LIBRARIES = 'torch', 'torchvision', 'mmcv'
# What tells numbers of channels, of tensors and of layers.
COUNTING = frozenset(
    (
        *('shape', 'size', 'numel', 'nelement', 'in_channels', 'out_channels'),
        *('in_features', 'out_features', 'num_features', 'embed_dim'),
    )
)


def forward_names(module: nn.Module) -> frozenset[str]:
    """Returns all names in the forward of a module and what it calls of it.

    Args:
        module (nn.Module): The module.

    Examples:
        >>> sorted({'bias', 'in_features'} & forward_names(nn.Linear(2, 3)))
        ['bias']
    """
    kind: Any = type(module)
    # Some choose one of several methods when they are built.
    own = vars(module).get('forward')
    return names_read(kind, getattr(own, '__name__', 'forward'))


def asks_in_training(module: nn.Module) -> bool:
    """Whether a forward asks for the mode, and for numbers.

    It may branch on a number of channels in training alone.

    Args:
        module (nn.Module): The module.

    Examples:
        >>> asks_in_training(nn.BatchNorm2d(4))
        False
    """
    if _is_known(type(module).__module__):
        return False
    names = set(forward_names(module))
    around = vars(sys.modules.get(type(module).__module__, sys))
    # Functions that it keeps, and those of its file that it calls.
    for name in tuple(names):
        for place in (vars(module), around):
            function = place.get(name)
            if isinstance(function, FunctionType) and not _is_known(
                function.__module__
            ):
                names.update(_names(function.__code__))
    own = vars(module)
    return 'training' in names and (
        not names.isdisjoint(COUNTING)
        or any(type(own.get(name)) is int for name in names)
    )


def _is_known(module: str | None) -> bool:
    # Code that was executed from a text may have none.
    return (module or '').partition('.')[0] in LIBRARIES


@cache
def names_read(kind: Any, method: str) -> frozenset[str]:
    """Returns all names in a method and what it calls of its class.

    Args:
        kind (type): The class.
        method (str): Name of the method.

    Examples:
        >>> 'training' in names_read(nn.Linear, 'train')
        True
    """
    found: set[str] = set()
    pending = [method]
    while pending:
        for code in _codes(kind, pending.pop()):
            new = set(_names(code)) - found
            found |= new
            pending += new
    return frozenset(found)


def _codes(kind: Any, name: str) -> Iterator[CodeType]:
    """Code of a method, and of those that it goes on with by ``super()``."""
    for owner in kind.__mro__:
        method = vars(owner).get(name)
        if isinstance(method, property):
            method = method.fget
        elif isinstance(method, (classmethod, staticmethod)):
            method = method.__func__
        # Decorators such as mmcv's of mixed precision wrap the forward.
        method = inspect.unwrap(method) if callable(method) else None
        code = getattr(method, '__code__', None)
        if isinstance(code, CodeType):
            yield code
        if name in vars(owner) and 'super' not in getattr(
            code, 'co_names', ()
        ):
            return


def _names(code: CodeType) -> Iterator[str]:
    """Names in a function and in those that are defined inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
