# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network whose forward goes over its own children meets no pruner there."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import nn

from .forward_names import forward_names

CHILD = 'pruner'
# Where a network keeps it meanwhile.
HIDDEN = '_hidden_pruner'
# By these a forward asks for children without naming them.
ASKED = {'_modules', 'children', 'modules', 'named_children', 'named_modules'}
CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict


def goes_over_children(model: nn.Module) -> bool:
    """Whether a forward may meet children that it does not name.

    Args:
        model (nn.Module): A network.

    Examples:
        >>> goes_over_children(nn.Sequential(nn.ReLU()))  # nothing happens
        False
        >>> class Last(nn.Sequential):
        ...     def forward(self, x):
        ...         return self[-1](x)
        >>> goes_over_children(Last(nn.ReLU()))
        True
    """
    if isinstance(model, CONTAINERS):
        return type(model).forward is not nn.Sequential.forward
    return bool(ASKED & set(forward_names(model)))


def hide_in_forward(model: nn.Module) -> list[int]:
    """Takes the pruner from the children for as long as a forward runs.

    ``for name, layer in self.named_children()`` or ``self[-1]`` would find it
    behind the last layer, and compute something else.

    Args:
        model (nn.Module): The network.

    Returns:
        list[int]: Numbers of the hooks.
    """
    before = model.register_forward_pre_hook(_hide)
    # Always called, so that a forward that raises leaves no pruner hidden.
    behind = model.register_forward_hook(_show, always_call=True)
    # A state dict without the pruner would say nothing of what is pruned.
    saved = model.register_state_dict_pre_hook(_show_to_save)
    return [before.id, behind.id, saved.id]


def pruner_in_forward(model: nn.Module) -> nn.Module | None:
    """Returns the pruner of a network that is about to run, hidden or not.

    Args:
        model (nn.Module): The network, from whose hook this is called.
    """
    # This call alone: what hid the pruner was interrupted.
    show_again(model, running=1)
    return pruner_within(model)


def pruner_within(model: nn.Module) -> nn.Module | None:
    """Returns the pruner of a network, hidden or not.

    For what may be called within a forward, where the child may be gone.

    Args:
        model (nn.Module): The network.
    """
    hidden: Hidden | None = vars(model).get(HIDDEN)
    return model._modules.get(CHILD) if hidden is None else hidden.pruner


def show_again(model: nn.Module, running: int = 0) -> None:
    """Puts back a pruner whose forward was interrupted, as by Ctrl-C.

    Whatever exception ends a forward, hooks behind it run; but not if it is
    no :class:`Exception`.

    Args:
        model (nn.Module): The network.
        running (int): How many of its forwards run at the least where this
            is called. Defaults to 0.
    """
    if HIDDEN in vars(model) and _forwards(model) <= running:
        model._modules[CHILD] = vars(model).pop(HIDDEN).pruner


@dataclass
class Hidden:
    """A pruner that is no child for the moment.

    Args:
        pruner (nn.Module): The pruner.
        forwards (int): How many forwards of the network run within each
            other: one that calls itself has several.
    """

    pruner: nn.Module
    forwards: int = 0


def _show_to_save(module: nn.Module, *_: Any) -> None:
    show_again(module)


def _forwards(model: nn.Module) -> int:
    """How many calls of a network run at the moment."""
    frame: FrameType | None = sys._getframe(1)
    found = 0
    while frame is not None:
        # What every call of a module passes through.
        if frame.f_code is nn.Module._call_impl.__code__:
            found += frame.f_locals.get('self') is model
        frame = frame.f_back
    return found


def _hide(module: nn.Module, args: Any) -> None:
    if HIDDEN not in vars(module):
        pruner: Any = module._modules.pop(CHILD)
        vars(module)[HIDDEN] = Hidden(pruner)
    vars(module)[HIDDEN].forwards += 1


def _show(module: nn.Module, args: Any, out: Any) -> None:
    hidden: Hidden | None = vars(module).get(HIDDEN)
    if hidden is None:
        return
    hidden.forwards -= 1
    if hidden.forwards <= 0:
        module._modules[CHILD] = vars(module).pop(HIDDEN).pruner
