# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Entries of a config: their classes, their settings, what is unknown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from mmengine.registry import Registry

from .stretch import Role, Stretch
from .tables import Table

# Words of names that are about time.
WORDS = re.compile(r'(^|_)(epochs?|iters?|iterations?|warmup|milestones)(_|$)')
# Of all hooks, or a choice rather than a time.
COMMON = frozenset({'type', 'priority', 'interval', 'by_epoch', '_scope_'})


def stretch_entry(
    stretch: Stretch,
    entry: MutableMapping[str, Any],
    kind: type,
    table: Table,
) -> list[str]:
    """Stretches an entry in place.

    Args:
        stretch (Stretch): The training.
        entry (MutableMapping): Settings of a scheduler, a hook or a loop.
        kind (type): Its class.
        table (Table): What is known of such classes.

    Returns:
        list[str]: Names of the settings that may hold epochs or iterations,
        and stay as they are since nobody knows.
    """
    settings = {**defaults_of(kind), **entry}
    strange = _unknown(settings, entry, kind, table)
    for name, role in roles_of(kind, table).items():
        value = settings.get(name)
        if value is None:
            continue
        try:
            new = role(stretch, settings, value)
        except (AttributeError, KeyError, TypeError, ValueError):
            # Of another form than it should have: MMEngine will say so.
            strange.append(name)
            continue
        # What stays is not written: configs tell defaults from settings.
        if new != value:
            entry[name] = new
    return [f'{name}={settings[name]!r}' for name in strange]


def _unknown(
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    kind: type,
    table: Table,
) -> list[str]:
    """Names of settings that no row knows and that may be times."""
    # A row of its own tells all of its arguments.
    if kind.__name__ in table:
        return []
    known = COMMON | roles_of(kind, table).keys()
    known |= _known_arguments(kind, table)
    return [
        name
        for name, value in settings.items()
        if name not in known and may_be_time(name, value, name not in given)
    ]


def roles_of(kind: type, table: Table) -> dict[str, Role]:
    """Returns what is known of a class, from its own and its bases' rows.

    Args:
        kind (type): The class.
        table (Table): The rows.
    """
    # object first, the class last: its own row overrides those of its bases.
    rows = [table.get(base.__name__, {}) for base in reversed(kind.mro())]
    return {name: role for row in rows for name, role in row.items()}


def defaults_of(kind: type) -> dict[str, Any]:
    """Returns the defaults of a class, and of bases that it passes them to.

    Args:
        kind (type): The class.

    Examples:
        >>> from mmengine.hooks import CheckpointHook
        >>> defaults_of(CheckpointHook)['interval']
        -1
    """
    found: dict[str, Any] = {}
    for base in reversed(kind.mro()):
        for name, default in _arguments(base).items():
            if default is not inspect.Parameter.empty:
                found[name] = default
    return found


def may_be_time(name: str, value: Any, strict: bool = False) -> bool:
    """Whether a setting may hold epochs or iterations.

    Args:
        name (str): Its name.
        value (Any): Its value; a number or several.
        strict (bool): Whether its name has to say so; else a whole number is
            enough. Defaults to False.

    Examples:
        >>> may_be_time('warmup_epochs', 2.5), may_be_time('ratio', 0.5)
        (True, False)
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    numbers = [v for v in values if _is_number(v) and v > 0]
    if WORDS.search(name):
        return bool(numbers)
    return not strict and any(isinstance(v, int) for v in numbers)


def times_within(value: Any, path: str) -> Iterator[str]:
    """Yields settings of a part of a config whose names are about time.

    Args:
        value (Any): The part.
        path (str): Its name.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if may_be_time(str(name), inner, strict=True):
                yield f'{path}.{name}={inner!r}'
            yield from times_within(inner, f'{path}.{name}')
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from times_within(inner, f'{path}[{number}]')


def class_of(entry: Mapping[str, Any], registry: Registry) -> type | None:
    """Returns the class of an entry; None if it cannot be found.

    Args:
        entry (Mapping): With ``type``, a name or the class itself.
        registry (Registry): Where names are looked up.
    """
    kind = entry.get('type')
    if isinstance(kind, str):
        # As `Registry.build`: the packages have registries of their own.
        scope = entry.get('_scope_')
        with registry.switch_scope_and_registry(scope) as own:
            kind = own.get(kind)
    return kind if inspect.isclass(kind) else None


def _known_arguments(kind: type, table: Table) -> set[str]:
    rows = [base for base in kind.mro() if base.__name__ in table]
    return {name for base in rows for name in _arguments(base)}


def _arguments(kind: type) -> dict[str, Any]:
    """Arguments that a class itself names, with their defaults."""
    init = vars(kind).get('__init__')
    if not inspect.isfunction(init):
        return {}
    # Without self.
    _, *arguments = inspect.signature(init).parameters.values()
    return {
        a.name: a.default
        for a in arguments
        if a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD)
    }


def _is_number(value: Any) -> bool:
    # True is an int to Python.
    return isinstance(value, (int, float)) and not isinstance(value, bool)
