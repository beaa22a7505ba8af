# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Optimizer state and gradients follow parameters that were narrowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import PruningError
from ..heirs import Heir, Heirs


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Raises PruningError if an optimizer is not one of this network.

    Args:
        optimizer (Optimizer): The optimizer.
        model (nn.Module): The network, before it is narrowed.
    """
    if not isinstance(optimizer, Optimizer):
        raise PruningError(
            f'optimizer={type(optimizer).__name__}: expected one of '
            'torch.optim, or none'
        )
    own = set(model.parameters())
    if not any(p in own for g in optimizer.param_groups for p in g['params']):
        raise PruningError(
            f'optimizer={type(optimizer).__name__} holds no parameter of the '
            'network that is narrowed: give the one that trains it, or none'
        )


def check_states(optimizer: Optimizer, wide: Sequence[Tensor]) -> None:
    """Raises PruningError if a state could not follow its parameter.

    Args:
        optimizer (Optimizer): The optimizer.
        wide (Sequence[Tensor]): Parameters that will be narrowed.

    Raises:
        PruningError: If a state is a tensor of more than one element, but
            not of its parameter's shape.
    """
    for parameter in wide:
        for key, state in optimizer.state.get(parameter, {}).items():
            # Several moments, or a history, are a list or a dictionary.
            for value in tree_leaves(state):
                _check_state(optimizer, parameter, key, value)


def _check_state(
    optimizer: Optimizer, parameter: Tensor, key: Any, value: Any
) -> None:
    if (
        isinstance(value, Tensor)
        and value.numel() > 1
        and value.shape != parameter.shape
    ):
        raise PruningError(
            f'state {key!r} of {type(optimizer).__name__} has shape '
            f'{tuple(value.shape)}, its parameter '
            f'{tuple(parameter.shape)}: it cannot be narrowed. Keep '
            'the masks to the end of the run, or use an optimizer '
            'whose states have the shape of their parameters'
        )


@torch.no_grad()
def move_gradients(heirs: Heirs) -> None:
    """Gives narrow parameters the gradients of the wide ones.

    Args:
        heirs (Heirs): What took the place of every replaced parameter.
    """
    for old, taken in heirs.items():
        if old.grad is None:
            continue
        # Several where a bypass was split into parts; none if it vanished.
        for heir in taken:
            # Before an optimizer steps again: gradients of accumulation are
            # kept.
            heir.new.grad = heir.take(old.grad)


@torch.no_grad()
def move_optimizer_state(optimizer: Optimizer, heirs: Heirs) -> None:
    """Narrows the state of an optimizer; groups and their rates stay.

    Everything that has the shape of its parameter is narrowed with it:
    momentum, moments, averages, also in lists and dictionaries. Steps and
    other single numbers are copied.

    Args:
        optimizer (Optimizer): An optimizer of the wide parameters.
        heirs (Heirs): What took the place of every replaced parameter.

    Raises:
        PruningError: If a state is of another shape; the optimizer is then
            as before.
    """
    check_states(optimizer, list(heirs))
    for group in optimizer.param_groups:
        _move_group(group, heirs)
    # Momentum is v <- mu v + g entry by entry, and so are moments: an entry
    # reads no other one. Slicing before a step or after it gives the same,
    # so the rows and columns that the weight kept are those to keep.
    # Only what has the parameter's shape is narrowed; a step counter is copied
    # to every part.
    for old, taken in heirs.items():
        state = optimizer.state.pop(old, None)
        if state is None:
            continue
        for heir in taken:
            optimizer.state[heir.new] = {
                key: _move_state(value, old, heir)
                for key, value in state.items()
            }


def _move_group(group: dict[str, Any], heirs: Heirs) -> None:
    """Replaces in place: schedulers and scalers hold the group itself."""
    old = list(group['params'])
    # At the same places, which state dicts of optimizers count.
    group['params'] = [new for p in old for new in _successors(p, heirs)]
    if 'param_names' in group:
        group['param_names'] = [
            name
            for name, p in zip(group['param_names'], old, strict=True)
            for _ in _successors(p, heirs)
        ]


def _successors(
    parameter: nn.Parameter, heirs: Heirs
) -> Sequence[nn.Parameter]:
    if parameter not in heirs:
        return [parameter]
    return [heir.new for heir in heirs[parameter]]


def _move_state(state: Any, old: Tensor, heir: Heir) -> Any:
    def move(value: Tensor) -> Tensor:
        # Heirs must not share a step counter, which is counted up in place.
        whole = value.shape != old.shape
        return value.clone() if whole else heir.take(value)

    return tree_map_only(Tensor, move, state)
