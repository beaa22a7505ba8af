# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Arguments of our types of models, checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS

from mmlapp.core import PruningError
from mmlapp.core.arguments import meant, taken_by
from mmlapp.core.methods.budget import check_divisor
from mmlapp.core.methods.min_keep import least_share
from mmlapp.core.numbers import check_flag, check_number
from mmlapp.core.pruner.protection import check_protect
from mmlapp.core.pruner.shrinking import shrinking

# What the registry itself reads.
OF_BUILD = ('_scope_',)
SHAPE = (
    'expected the shape of an input without the batch, such as (3, 224, 224), '
    'a dictionary of such shapes for inputs with names, or dict(type=NAME) of '
    'a function in mmlapp.registry.FUNCTIONS that returns the arguments of '
    "the model's forward"
)


def check_shape(shape: Any) -> Any:
    """Returns what a model is run on, in tuples, or raises.

    Args:
        shape (Any): What a user gave as ``input_shape``: the shape of one
            input without its batch dimension, a dictionary of shapes, or one
            with the ``type`` of a function.

    Raises:
        PruningError: If a shape is no list of whole numbers from 1 on.
    """
    if isinstance(shape, Mapping):
        if 'type' in shape:
            return dict(shape)
        found = {name: _sizes(value) for name, value in shape.items()}
    else:
        # One shape is checked as several are.
        found = {'': _sizes(shape)}
    if not found or None in found.values():
        raise PruningError(f'input_shape={shape!r}: {SHAPE}')
    return found if isinstance(shape, Mapping) else found['']


def _sizes(shape: Any) -> tuple[int, ...] | None:
    """Returns a shape as a tuple; None if it is none."""
    if not isinstance(shape, Sequence) or isinstance(shape, str) or not shape:
        return None
    try:
        for size in shape:
            check_number('size', size, least=1, whole=True)
    except PruningError:
        return None
    return tuple(shape)


def check_names(name: str, value: Any, empty: bool = True) -> None:
    """Refuses what is no name and no list of names.

    Args:
        name (str): Of the argument, for the error text.
        value (Any): What a user gave.
        empty (bool): Whether the list may be empty. Defaults to True.

    Raises:
        PruningError: With the name and the value.
    """
    several = isinstance(value, Sequence) and not isinstance(value, str)
    parts = value if several else [value]
    if not all(isinstance(part, str) for part in parts):
        raise PruningError(
            f'{name}={value!r}: expected a name of modules or a list of them, '
            "such as 'backbone'"
        )
    if not parts and not empty:
        raise PruningError(
            f'{name}={value!r}: it names nothing. Give a name of modules, '
            "such as 'backbone'"
        )


def check_name(name: str, value: Any) -> None:
    """Refuses what is no name.

    Args:
        name (str): Of the argument, for the error text.
        value (Any): What a user gave.

    Raises:
        PruningError: With the name and the value.
    """
    if not isinstance(value, str):
        raise PruningError(f'{name}={value!r}: expected one name')


def check_choice(name: str, value: Any) -> None:
    """Refuses what is no name and no dictionary of one with its settings.

    Args:
        name (str): Of the argument, for the error text.
        value (Any): What a user gave.

    Raises:
        PruningError: With the name and the value.
    """
    if not isinstance(value, (str, Mapping)):
        raise PruningError(
            f'{name}={value!r}: expected one name, or '
            'dict(type=name) with its settings'
        )


def check_costs(name: str, value: Any) -> None:
    """Refuses what is no list of costs.

    Args:
        name (str): Of the argument, for the error text.
        value (Any): What a user gave.

    Raises:
        PruningError: With the name and the value.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise PruningError(
            f"{name}={value!r}: expected a list of costs, such as ['flops']"
        )
    for cost in value:
        check_choice(f'{name}: cost', cost)


# By what each argument is checked, before anything is built.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    'scope': lambda name, value: check_names(name, value, empty=False),
    'ignore': check_names,
    'keep_streams': check_flag,
    'unit': check_choice,
    'bypass': lambda name, value: value is None or check_choice(name, value),
    'method': check_choice,
    'score': check_choice,
    'normalisation': check_name,
    'costs': check_costs,
    'divisor': lambda name, value: check_divisor(value),
    'min_keep': lambda name, value: value is None or least_share(value),
    'shrink': lambda name, value: value is None or shrinking(value),
    'protect': lambda name, value: check_protect(value),
    'input_shape': lambda name, value: check_shape(value),
    'unused': check_names,
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses arguments of the wrong kind.

    Args:
        settings (Mapping[str, Any]): Arguments of ``PrunableModel`` by name.

    Raises:
        PruningError: With the first one and what was expected.
    """
    for name, value in settings.items():
        CHECKS[name](name, value)


def check_unknown(
    architecture: Any,
    settings: Mapping[str, Any],
    kind: str = 'PrunableModel',
    ours: Collection[str] = tuple(CHECKS),
) -> None:
    """Refuses arguments that neither we nor the architecture take.

    Args:
        architecture (Any): Type of the model.
        settings (Mapping[str, Any]): What would be passed on to it.
        kind (str): Which of our types passes it on. Defaults to
            ``PrunableModel``.
        ours (Collection[str]): Its own arguments. Defaults to those of
            ``PrunableModel``.

    Raises:
        PruningError: With the first one, and the name that may be meant.
    """
    taken = _parameters(architecture)
    for name, value in settings.items():
        # First what the architecture takes: its names may look like ours. One
        # that is ours is no mistake: both may take it.
        if name in (taken or ()) or name in ours or name in OF_BUILD:
            continue
        hint = meant(name, ours)
        if hint:
            raise PruningError(
                f'{name}={value!r}: mmlapp.{kind} has no such argument; {hint}'
            )
        if taken is not None:
            raise PruningError(
                f'{name}={value!r}: neither mmlapp.{kind} nor {architecture} '
                f'has such an argument. Ours are {", ".join(ours)}'
            )


def _parameters(architecture: Any) -> list[str] | None:
    """Names that a type of model takes; None if that is any, or not known."""
    kind = architecture
    if isinstance(kind, str):
        # As `build` looks it up: in the default scope first.
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return taken_by(kind) if callable(kind) else None
