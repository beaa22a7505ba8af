# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules whose class becomes a subclass with a mixin, in place."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

# How a class was made at run time: a function of a module and its arguments.
Origin = tuple[Callable[..., type], tuple[Any, ...]]


def mix_in(module: nn.Module, mixin: type) -> None:
    """Makes the class of a module a subclass with a mixin before it.

    Args:
        module (nn.Module): The module, changed in place. One that has the
            mixin, as what is narrowed again has, keeps its class.
        mixin (type): The mixin.
    """
    cls: type = type(module)
    if mixin not in cls.__mro__:
        module.__class__ = _mixed(mixin, cls)


def take_off(module: nn.Module, mixin: type, state: str | None = None) -> None:
    """Gives a module with a mixin back its own class.

    Args:
        module (nn.Module): A module, with the mixin or not.
        mixin (type): The mixin.
        state (str, optional): Name of what the mixin keeps in the module.
            Defaults to None: nothing.
    """
    if isinstance(module, mixin):
        bases = type(module).__bases__
        module.__class__ = next(base for base in bases if base is not mixin)
        if state is not None:
            del module.__dict__[state]


def derive(
    cls: type, bases: tuple[type, ...], origin: Origin, **body: Any
) -> type:
    """Makes a class whose objects can be copied, pickled and sent.

    Pickle finds classes by name, and none made at run time is there: objects
    remember how their class was made.

    Args:
        cls (type): The class that it looks like: MMEngine's initialisers
            compare class names.
        bases (tuple[type, ...]): Its bases.
        origin (tuple): The function that made it, which must be cached, and
            its arguments.
        **body (Any): What it defines.
    """
    names = {'__module__': cls.__module__, '__qualname__': cls.__qualname__}
    made = {'__reduce_ex__': _reduce, '_made_by': origin}
    return type(cls.__name__, bases, {**names, **made, **body})


def _reduce(self: Any, protocol: Any) -> Any:
    """Says how to make the class where others name it."""
    reduced: Any = object.__reduce_ex__(self, protocol)
    create, arguments, *state = reduced
    # Of an object: `cls.__new__(cls)`, then its state. Another answer is that
    # of a class which says itself how it is made.
    if create is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return reduced
    cls, *others = arguments
    return _new, (_spell(cls), *others), *state


def _new(spelled: Any, *arguments: Any) -> Any:
    cls = _read(spelled)
    return cls.__new__(cls, *arguments)


def _spell(cls: Any) -> Any:
    """A class as pickle can write it: itself, or how it was made."""
    if not isinstance(cls, type) or '_made_by' not in vars(cls):
        return cls
    function, arguments = vars(cls)['_made_by']
    return function, tuple(_spell(argument) for argument in arguments)


def _read(spelled: Any) -> Any:
    """What :func:`_spell` wrote."""
    if not isinstance(spelled, tuple):
        return spelled
    function, arguments = spelled
    return function(*(_read(argument) for argument in arguments))


@cache
def _mixed(mixin: type, cls: type) -> type:
    return derive(cls, (mixin, cls), (_mixed, (mixin, cls)))
