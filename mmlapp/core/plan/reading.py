# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Strict readers of plain data from a file that a stranger may have made.

A reader is a function of a value and of where it stands, such as
``groups['conv1']``. It returns what the value means or raises
:class:`PruningError` with the place, the value and what was expected.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from ..errors import PruningError

T = TypeVar('T')
Reader = Callable[[Any, str], T]


def refuse(value: Any, where: str, expected: str) -> NoReturn:
    """Raises PruningError for a value of the wrong kind.

    Args:
        value (Any): What was found.
        where (str): Where it stands.
        expected (str): What belongs there.
    """
    raise PruningError(f'{where} is {shown(value)}: expected {expected}')


def shown(value: Any) -> str:
    """Returns a short text of a value, however long it is.

    Args:
        value (Any): Anything.
    """
    try:
        return reprlib.repr(value)
    except ValueError:  # more digits than Python writes
        return 'a number of thousands of digits'


def text(value: Any, where: str) -> str:
    """Reads a text."""
    if not isinstance(value, str):
        refuse(value, where, 'a text')
    return value


def integer(most: int, expected: str) -> Reader[int]:
    """Returns a reader of whole numbers; True and 1.0 are none.

    Args:
        most (int): The largest, from 0 on.
        expected (str): What they are, for error texts.
    """

    def read(value: Any, where: str) -> int:
        if type(value) is not int or not 0 <= value <= most:
            refuse(value, where, f'{expected}, from 0 to {most}')
        return value

    return read


def number(
    least: float, expected: str, most: float = math.inf
) -> Reader[float]:
    """Returns a reader of finite numbers, whole ones or not.

    Args:
        least (float): Must be exceeded.
        expected (str): What they are, for error texts.
        most (float): The largest. Defaults to any.
    """

    def read(value: Any, where: str) -> float:
        # By type, not isinstance: True is an int to Python.
        if type(value) not in (int, float) or not _finite(value):
            refuse(value, where, expected)
        if not least < value <= most:
            refuse(value, where, expected)
        return float(value)

    return read


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def sequence(read: Reader[T]) -> Reader[tuple[T, ...]]:
    """Returns a reader of lists.

    Args:
        read (Callable): Reads an entry.
    """

    def read_all(value: Any, where: str) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)):
            refuse(value, where, 'a list')
        return tuple(read(v, f'{where}[{i}]') for i, v in enumerate(value))

    return read_all


def mapping(read: Reader[T], key: Reader[Any] = text) -> Reader[dict[Any, T]]:
    """Returns a reader of entries by name.

    Args:
        read (Callable): Reads an entry.
        key (Callable): Reads a name. Defaults to any text.
    """

    def read_all(value: Any, where: str) -> dict[Any, T]:
        if not isinstance(value, Mapping):
            refuse(value, where, 'entries by name')
        return {
            key(k, f'a name in {where}'): read(v, f'{where}[{k!r:.80}]')
            for k, v in value.items()
        }

    return read_all


def record(
    fields: Mapping[str, Reader[Any]], optional: Sequence[str] = ()
) -> Reader[dict[str, Any]]:
    """Returns a reader of entries with fixed names.

    Args:
        fields (Mapping[str, Callable]): Reads each entry.
        optional (Sequence[str]): Names that may be missing. Defaults to
            none.
    """

    def read(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            refuse(value, where, 'entries by name')
        missing = fields.keys() - value.keys() - set(optional)
        if missing:
            raise PruningError(f'{where} has no {min(missing)!r}')
        for name in value:
            if name not in fields:
                refuse(name, f'a name in {where}', f'one of {list(fields)}')
        return {
            name: read_one(value[name], f'{where}[{name!r}]')
            for name, read_one in fields.items()
            if name in value
        }

    return read


def plain(value: Any, where: str) -> Any:
    """Reads what JSON can hold: texts, finite numbers, lists, dicts."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return mapping(plain)(value, where)
    if isinstance(value, (list, tuple)):
        # A list, as JSON reads it: a tuple would not equal it.
        return list(sequence(plain)(value, where))
    if type(value) not in (int, float) or not _finite(value):
        refuse(value, where, 'a text, a finite number, a list or a dict')
    return value


def parse_json(content: str, what: str = 'the channel plan') -> Any:
    """Reads JSON without what only Python takes for JSON.

    Args:
        content (str): The text.
        what (str): What it is, for error texts. Defaults to a plan.

    Raises:
        PruningError: If it is no complete JSON, has a name twice or numbers
            such as NaN, or is nested more deeply than Python reads.
    """
    try:
        return json.loads(
            content,
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_number,
        )
    except PruningError as error:
        raise PruningError(f'{what} is damaged: {error}') from None
    except RecursionError:
        raise PruningError(
            f'{what} is damaged: it is nested too deeply; write it again'
        ) from None
    # A number of too many digits is another ValueError.
    except ValueError as error:
        raise PruningError(
            f'{what} is no complete JSON ({error}): it may be '
            'truncated; write it again'
        ) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # The last of equal names would win, silently.
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise PruningError(f'the name {twice!r:.80} is there twice')
    return found


def _no_number(name: str) -> NoReturn:
    raise PruningError(f'it holds {name}, expected finite numbers')


def digest(data: Mapping[str, Any]) -> str:
    """Returns a fingerprint of plain data, whatever the order of its names.

    Args:
        data (Mapping): What JSON can hold.

    Returns:
        str: SHA-256 in hexadecimal digits.
    """
    # Sorted and without blanks: one text for equal data.
    content = json.dumps(data, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(content.encode()).hexdigest()
