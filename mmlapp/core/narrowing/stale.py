# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Optimizers that hold what narrowing replaced, or its states."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import PruningError

# Its network and its name there by parameter, as long as anybody holds it;
# and the names of what networks have.
_REPLACED: Any = WeakIdKeyDictionary()
_KNOWN: Any = WeakIdKeyDictionary()
# Optimizers that were looked at since the last narrowing.
_CHECKED: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def remember(model: nn.Module, replaced: Mapping[nn.Parameter, str]) -> None:
    """Makes an optimizer that steps one of these parameters raise.

    Args:
        model (nn.Module): The network that was narrowed.
        replaced (Mapping): Names of the parameters that it had before.
    """
    for parameter, name in replaced.items():
        # Holds neither: what nobody trains any more is forgotten.
        _REPLACED[parameter] = weakref.ref(model), name
    watch(model)


def watch(model: nn.Module) -> None:
    """Makes an optimizer that took states of other widths raise.

    torch loads them, and fails at the first step without a word of that.

    Args:
        model (nn.Module): A network that is prunable or narrow by now.
    """
    for name, parameter in model.named_parameters():
        _KNOWN[parameter] = name
    _CHECKED.clear()
    _install()


@cache
def _install() -> None:
    """Once for all optimizers: narrowing does not know whose they are."""
    register_optimizer_step_pre_hook(_check)


def _check(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    # Nearly every step of every optimizer: it must cost nothing.
    if torch.compiler.is_compiling() or optimizer in _CHECKED:
        return
    for group in optimizer.param_groups:
        for parameter in group['params']:
            _refuse_replaced(optimizer, parameter)
            _refuse_states(optimizer, parameter)
    _CHECKED.add(optimizer)


def _refuse_replaced(optimizer: Optimizer, parameter: nn.Parameter) -> None:
    if parameter in _REPLACED and _is_stale(parameter):
        raise PruningError(
            f'{type(optimizer).__name__} still holds '
            f'{_REPLACED[parameter][1]} as it was before narrowing, which the '
            'network does not read any more. Use narrow(model, plan, '
            'optimizer), or make a new optimizer of model.parameters() '
            'afterwards'
        )


def _refuse_states(optimizer: Optimizer, parameter: nn.Parameter) -> None:
    state = optimizer.state.get(parameter, {}) if parameter in _KNOWN else {}
    for key, value in state.items():
        if isinstance(value, Tensor) and not may_belong(value, parameter):
            name, kind = _KNOWN[parameter], type(optimizer).__name__
            raise PruningError(
                f'{kind} has {key} of {name} in shape {tuple(value.shape)}, '
                f'and {name} has {tuple(parameter.shape)}: its state was '
                'saved at other widths. Load it into an optimizer of the '
                'network as it was then; narrow(model, plan, optimizer) '
                'makes both small'
            )


def may_belong(value: Tensor, parameter: Tensor) -> bool:
    """Whether a state may be that of a parameter.

    Those that are means over a dimension lack it, or have one of size 1. A
    vector may be a table of the optimizer's own.

    Args:
        value (Tensor): The state.
        parameter (Tensor): The parameter.

    Examples:
        >>> weight = torch.ones(8, 4)
        >>> sizes = (8, 4), (8, 1), (8,), (256,), (), (6, 4)
        >>> [may_belong(torch.ones(size), weight) for size in sizes]
        [True, True, True, True, True, False]
        >>> may_belong(torch.ones(256), torch.ones(8))
        True
    """
    pairs = zip(value.shape, parameter.shape, strict=False)
    told = value.dim() == parameter.dim() > 1
    return not told or all(size in (1, whole) for size, whole in pairs)


def _is_stale(parameter: nn.Parameter) -> bool:
    """Whether it is still out; a narrowing may have been taken back."""
    model = _REPLACED[parameter][0]()
    if model is None or any(p is parameter for p in model.parameters()):
        del _REPLACED[parameter]
        return False
    return True
