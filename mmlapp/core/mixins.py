# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules whose class becomes a subclass with a mixin, in place."""

from __future__ import annotations

from functools import cache

from torch import nn


def mix_in(module: nn.Module, mixin: type) -> None:
    """Makes the class of a module a subclass with a mixin before it.

    Args:
        module (nn.Module): The module, changed in place.
        mixin (type): The mixin.
    """
    cls: type = type(module)
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


@cache
def _mixed(mixin: type, cls: type) -> type:
    """The name is kept: MMEngine's initialisers compare class names."""
    body = {'__module__': cls.__module__, '__qualname__': cls.__qualname__}
    return type(cls.__name__, (mixin, cls), body)
