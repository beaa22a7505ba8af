# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Named choices: importance scores, surrogates, bypasses ..."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from .arguments import check_arguments, choose_from, defaults_of
from .errors import PruningError

T = TypeVar('T')


class Choices(Generic[T]):
    """Names to implementations, open to users.

    Args:
        kind (str): What the entries are, for error texts.
        made (type, optional): What an entry makes, which may be given in
            its place. Defaults to None: names alone are taken.

    Examples:
        >>> greetings = Choices('greeting')
        >>> @greetings.register('hello')
        ... def hello():
        ...     return 'hi'
        >>> greetings['hello']()
        'hi'
    """

    def __init__(self, kind: str, made: type | None = None) -> None:
        self.kind, self.made = kind, made
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that adds an entry.

        Args:
            name (str): The name that users write.

        Raises:
            PruningError: If the name is taken.
        """
        if name in self._entries:
            raise PruningError(
                f'{self.kind}={name!r} is already registered; choose another '
                'name'
            )

        def add(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """Returns an entry; an unknown name is an error that lists all."""
        if not isinstance(name, str) or name not in self._entries:
            raise PruningError(
                f'{self.kind}={name!r} is unknown; '
                f'{choose_from(sorted(self), str(name))}'
            )
        return self._entries[name]

    def spelled_out(self, choice: str | Mapping[str, Any]) -> dict[str, Any]:
        """Returns a choice as a dictionary with its name as ``type``.

        Args:
            choice (str or Mapping): A name, or such a dictionary.

        Raises:
            PruningError: If it says no name, or an unknown one.
        """
        if not isinstance(choice, (str, Mapping)):
            raise PruningError(self._misfit(choice))
        settings = {'type': choice} if isinstance(choice, str) else {**choice}
        if 'type' not in settings:
            raise PruningError(
                f'{self.kind}={settings} says no type; '
                f'{choose_from(sorted(self))}'
            )
        self[settings['type']]
        return settings

    def in_full(self, choice: Any) -> Any:
        """Returns a choice with all its settings, also those not said.

        What two configs say in two ways is equal in full. An entry whose
        settings are choices themselves names them in ``choices``, a mapping
        from the setting to its :class:`Choices`.

        Args:
            choice (str, Mapping or object): As for :meth:`build`.

        Raises:
            PruningError: If it says no name, or an unknown one.

        Examples:
            >>> numbers = Choices('number')
            >>> @numbers.register('power')
            ... def power(base, exponent=1):
            ...     return base**exponent
            >>> numbers.in_full('power')
            {'exponent': 1, 'type': 'power'}
        """
        if self.made is not None and isinstance(choice, self.made):
            return choice
        said = self.spelled_out(choice)
        entry: Any = self[said['type']]
        parts: Mapping[str, Choices[Any]] = getattr(entry, 'choices', {})
        return {
            name: parts[name].in_full(value) if name in parts else value
            for name, value in {**defaults_of(entry), **said}.items()
        }

    def build(self, choice: Any, *args: Any) -> Any:
        """Makes what a config asks for.

        Args:
            choice (str, Mapping or object): A name; a dictionary of the name
                as ``type`` and settings; or what was made already.
            *args (Any): Given to the entry before the settings.

        Raises:
            PruningError: If the name is unknown or a setting is, or if what
                was made is something else.

        Examples:
            >>> numbers = Choices('number')
            >>> @numbers.register('power')
            ... def power(base, exponent=1):
            ...     return base**exponent
            >>> numbers.build(dict(type='power', exponent=3), 2)
            8
        """
        if self.made is not None and isinstance(choice, self.made):
            return choice
        settings = self.spelled_out(choice)
        name = settings.pop('type')
        entry: Any = self[name]
        check_arguments(f'{self.kind}={name!r}', entry, args, settings)
        return entry(*args, **settings)

    def _known(self) -> str:
        return ', '.join(sorted(self._entries))

    def _misfit(self, choice: Any) -> str:
        """What to give instead of something that is no choice."""
        ways = ['a name', 'a dictionary with it as type and settings']
        if self.made is not None:
            ways.append(f'an instance of {self.made.__name__}')
        # A function or a class as it stands, not what it makes.
        given = getattr(choice, '__name__', None) or repr(choice)
        return (
            f'{self.kind}={given}: expected {" or ".join(ways)}; names are '
            f'{self._known()}, others are registered first'
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
