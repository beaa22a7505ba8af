# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Optimizers that still hold what narrowing replaced."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import PruningError

# Its network and its name there by parameter, as long as anybody holds it.
_REPLACED: Any = WeakIdKeyDictionary()


def remember(model: nn.Module, replaced: Mapping[nn.Parameter, str]) -> None:
    """Makes an optimizer that steps one of these parameters raise.

    Args:
        model (nn.Module): The network that was narrowed.
        replaced (Mapping): Names of the parameters that it had before.
    """
    for parameter, name in replaced.items():
        # Holds neither: what nobody trains any more is forgotten.
        _REPLACED[parameter] = weakref.ref(model), name
    _install()


@cache
def _install() -> None:
    """Once for all optimizers: narrowing does not know whose they are."""
    register_optimizer_step_pre_hook(_refuse)


def _refuse(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    # Nearly every step of every optimizer: it must cost nothing.
    if torch.compiler.is_compiling() or not len(_REPLACED):
        return
    for group in optimizer.param_groups:
        for parameter in group['params']:
            if parameter in _REPLACED and _is_stale(parameter):
                raise PruningError(
                    f'{type(optimizer).__name__} still holds '
                    f'{_REPLACED[parameter][1]} as it was before narrowing, '
                    'which the network does not read any more. Use '
                    'narrow(model, plan, optimizer), or make a new optimizer '
                    'of model.parameters() afterwards'
                )


def _is_stale(parameter: nn.Parameter) -> bool:
    """Whether it is still out; a narrowing may have been taken back."""
    model = _REPLACED[parameter][0]()
    if model is None or any(p is parameter for p in model.parameters()):
        del _REPLACED[parameter]
        return False
    return True
