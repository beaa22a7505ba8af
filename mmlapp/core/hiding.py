# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network whose forward goes over its own children meets no pruner there."""

from __future__ import annotations

from typing import Any

from torch import nn

from .forward_names import forward_names

CHILD = 'pruner'
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
    # Whatever happens in between.
    behind = model.register_forward_hook(_show, always_call=True)
    return [before.id, behind.id]


def _hide(module: nn.Module, args: Any) -> None:
    module.__dict__['_hidden'] = module._modules.pop(CHILD)


def _show(module: nn.Module, args: Any, out: Any) -> None:
    hidden = module.__dict__.pop('_hidden', None)
    if hidden is not None:
        module._modules[CHILD] = hidden
