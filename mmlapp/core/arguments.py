# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Arguments that somebody calls by a name that nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, Signature, isclass, signature
from typing import Any

from .errors import PruningError

# How alike two names are, from 0 to 1, to be taken for each other.
ALIKE = 0.75
BY_NAME = Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY


def meant(name: str, known: Iterable[str]) -> str:
    """Returns a question after the name that was meant; empty if none is.

    Args:
        name (str): What somebody wrote.
        known (Iterable[str]): What could be written.

    Examples:
        >>> meant('divsor', ['scope', 'divisor'])
        'did you mean divisor?'
    """
    found = get_close_matches(name, list(known), 1, cutoff=ALIKE)
    return f'did you mean {found[0]}?' if found else ''


def choose_from(known: Iterable[str], name: str = '') -> str:
    """Returns what to write in place of a name that nobody knows.

    Args:
        known (Iterable[str]): What could be written.
        name (str): What somebody wrote. Defaults to nothing that looks like
            one of them.

    Examples:
        >>> choose_from(['scope', 'divisor'], 'divsor')
        'did you mean divisor? choose one of: scope, divisor'
    """
    known = list(known)
    hint = meant(name, known)
    return f'{hint}{" " if hint else ""}choose one of: {", ".join(known)}'


def taken_by(entry: Callable[..., Any]) -> list[str] | None:
    """Returns the names of all arguments; None if any name is taken.

    A class that passes other arguments on takes those of its bases.

    Args:
        entry (Callable): A class or a function.
    """
    found, more = _arguments(entry)
    return None if more else list(found)


def defaults_of(entry: Callable[..., Any]) -> dict[str, Any]:
    """Returns the arguments that need not be given, and what they are then.

    Args:
        entry (Callable): A class, with what it passes on to its bases, or a
            function.

    Examples:
        >>> def power(base, exponent=1, *, root=None): ...
        >>> defaults_of(power)
        {'exponent': 1, 'root': None}
    """
    found, _ = _arguments(entry)
    return {
        name: each.default
        for name, each in found.items()
        if each.default is not Parameter.empty
    }


def _arguments(
    entry: Callable[..., Any],
) -> tuple[dict[str, Parameter], bool]:
    """Arguments by name, and whether those of any other name are taken."""
    calls = [entry]
    if isclass(entry):
        # Without `object`, which seems to take everything and takes nothing.
        bases = entry.__mro__[:-1]
        calls = [vars(b)['__init__'] for b in bases if '__init__' in vars(b)]
    found: dict[str, Parameter] = {}
    for call in calls:
        expected = _signature(call)
        if expected is None:
            return found, True
        # Without `self` of a class.
        parameters = [*expected.parameters.values()][isclass(entry) :]
        for each in parameters:
            if each.kind in BY_NAME:
                found.setdefault(each.name, each)
        if all(each.kind != Parameter.VAR_KEYWORD for each in parameters):
            return found, False
    return found, bool(calls)


def _signature(call: Callable[..., Any]) -> Signature | None:
    """None of what is written in C and tells no names."""
    try:
        return signature(call)
    except ValueError:
        return None


def check_arguments(
    said: str,
    entry: Callable[..., Any],
    args: Sequence[Any],
    settings: Mapping[str, Any],
) -> None:
    """Refuses arguments that a class or a function does not take.

    Args:
        said (str): What it is called by users, for the error text.
        entry (Callable): The class or the function.
        args (Sequence): Arguments without a name.
        settings (Mapping): Arguments by name.

    Raises:
        PruningError: With the first unknown name, its value and the name
            that may be meant; or with what is missing.
    """
    known = taken_by(entry)
    # What the caller gives first is no setting of users.
    takes = f'it takes {", ".join((known or [])[len(args) :]) or "none"}'
    accepted = settings if known is None else known
    unknown = [name for name in settings if name not in accepted]
    if unknown:
        hint = meant(unknown[0], accepted)
        raise PruningError(
            f'{unknown[0]}={settings[unknown[0]]!r}: {said} has no such '
            f'argument; {hint}{" " if hint else ""}{takes}'
        )
    expected = _signature(entry)
    try:
        if expected is not None:
            expected.bind(*args, **settings)
    except TypeError as error:
        raise PruningError(f'{said}: {error}; {takes}') from error
