# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers that know which channels they count.

They compute as plain ones do, and tell who compares them and what is left over
when they are divided.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from .thresholds import MIRRORED, comparison, in_own_code, least_value


@dataclass(frozen=True)
class Source:
    """What a number counts.

    Args:
        graph (object): Of the trace in which it was read.
        labels (Callable): Returns the labels of all that it counts.
        attribute (str): Name of the attribute of a module that it is, which
            may count something else as well. Defaults to none.
        divisors (list[Divisor], optional): Receives that name if a quotient
            by it is computed with. Defaults to None: nobody asks.
        compared (list[Compared], optional): Receives comparisons of what is
            computed from it. Defaults to None: nobody asks.
        remainders (list[Divided], optional): Receives what remainders are
            computed of, and by what. Defaults to None: nobody asks.
    """

    graph: object
    labels: Callable[[], Tensor]
    attribute: str = ''
    divisors: list[Divisor] | None = None
    compared: list[Compared] | None = None
    remainders: list[Divided] | None = None


class Followed:
    """A number that is computed from channels, and tells who compares it."""

    # Which numbers it is one of.
    kind: type[int] | type[float] = int

    def compared(self, name: str, other: float) -> None:
        """Notes a comparison.

        Args:
            name (str): As :mod:`operator` calls it.
            other (float): With what.
        """
        raise NotImplementedError

    def __add__(self, other: Any) -> Any:
        return _made('add', self, other)

    # sum() begins with 0.
    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return _made('sub', self, other)

    def __rsub__(self, other: Any) -> Any:
        return _made('sub', other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _made('floordiv', self, other)

    def __truediv__(self, other: Any) -> Any:
        return _made('truediv', self, other)

    def __bool__(self) -> bool:
        if not in_own_code():
            self.compared('ne', 0)
        return bool(plain(self))

    def __reduce__(self) -> Any:
        # A module may keep it: in copies and files it is a number.
        return self.kind, (plain(self),)

    __eq__ = comparison('eq')
    __ge__ = comparison('ge')
    __gt__ = comparison('gt')
    __le__ = comparison('le')
    __lt__ = comparison('lt')
    __ne__ = comparison('ne')

    def __hash__(self) -> int:
        return hash(plain(self))


def plain(number: Any) -> Any:
    """Returns a number that nobody follows.

    Args:
        number (int or float): Any number.
    """
    kind: Any = number.kind if isinstance(number, Followed) else None
    return number if kind is None else kind(number)


class Counted(Followed, int):
    """A number of channels that tells with what code compares it."""

    @property
    def terms(self) -> tuple[Width, ...]:
        """Of what it is the sum."""
        raise NotImplementedError

    def compared(self, name: str, other: float) -> None:
        """Notes a comparison.

        Args:
            name (str): As :mod:`operator` calls it.
            other (float): With what.
        """
        self._note(name, other)
        if isinstance(other, Counted):
            other._note(MIRRORED[name], self)

    def _note(self, name: str, other: float) -> None:
        number = plain(other)
        least = least_value(name, int(self), number)
        notes = self.terms[0].source.compared
        against = other if isinstance(other, Counted) else None
        equal = name in EQUALITIES and int(self) == number
        if notes is not None and (equal or least is not None):
            notes.append((self, least, against))


# A number, the least one that would have compared so, None where both are
# equal, and the number of channels that it was compared with, if it was one.
Compared = tuple[Counted, int | None, 'Counted | None']
# Comparisons that tell that two numbers are the same, or are not.
EQUALITIES = 'eq', 'ne'
# Operators that make a sum of two numbers of channels.
SUMS = 'add', 'sub'
# A number, and by what it is divided with a remainder.
Divided = tuple['Width', int]
# Name of an attribute, and a quotient by it that more is computed with.
Divisor = tuple[str, 'Width']


class Width(Counted):
    """A number of channels that knows which ones it counts.

    It is ``times / parts`` as many as its source has. Products with and
    quotients by numbers know it too; sums with others of its kind are a
    :class:`Sum`, what else numbers make of it is :class:`Computed` or a
    :class:`Fraction`, and all else plain.

    Args:
        value (int): The number.
        source (Source): What it counts.
        times (int): See above. Defaults to 1.
        parts (int): See above. Defaults to 1.
        other (Width, optional): The same as a multiple of something else, of
            which one is known by the end. Defaults to none.

    Examples:
        >>> width = Width(12, Source(None, lambda: torch.arange(12)))
        >>> half = width // 2
        >>> half, half.times, half.parts, type(width + 1).__name__
        (6, 1, 2, 'Computed')
    """

    source: Source
    times: int
    parts: int
    other: Width | None
    # What a quotient was divided by, if it is a number that is followed.
    divisor: Source | None = None

    @property
    def terms(self) -> tuple[Width, ...]:
        """Itself."""
        return (self,)

    def __new__(
        cls,
        value: int,
        source: Source,
        times: int = 1,
        parts: int = 1,
        other: Width | None = None,
    ) -> Width:
        """Makes the number; arguments as above."""
        width = super().__new__(cls, value)
        width.source, width.other = source, other
        width.times, width.parts = times, parts
        return width

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float):
            return _made('mul', self, other)
        value = int.__mul__(self, other)
        if not isinstance(other, int) or other < 1:
            return value
        other_way = None
        if isinstance(other, Width):
            other_way = other._scaled(value, int(self), 1)
        return self._scaled(value, int(other), 1, other_way)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, float):
            return _made('floordiv', self, other)
        value = int.__floordiv__(self, other)
        if not isinstance(other, int) or other < 1:
            return value
        # 7 // 2 is not proportional to the 7.
        if value * other != self:
            return _made('floordiv', self, other)
        found = self._scaled(value, 1, int(other))
        found.divisor = other.source if isinstance(other, Width) else None
        return found

    def __mod__(self, other: Any) -> Any:
        if not in_own_code():
            self._divided(other)
        return int.__mod__(self, other)

    def __divmod__(self, other: Any) -> Any:
        if not in_own_code():
            self._divided(other)
        return int.__divmod__(self, other)

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        self._computed()
        return int.__pow__(self, other, modulus)

    def __float__(self) -> float:
        # As a square root asks for it.
        self._computed()
        return int.__float__(self)

    def __truediv__(self, other: Any) -> Any:
        self._computed()
        return super().__truediv__(other)

    def __rtruediv__(self, other: Any) -> Any:
        # What is computed of it might be zero with fewer, or less: there a
        # quotient both rises and falls, and nobody follows it.
        self._computed()
        return _made('truediv', other, self)

    def __neg__(self) -> Sum:
        return Sum(-int(self), (self,))

    def _divided(self, by: Any) -> None:
        """Notes that code looks at the remainder."""
        notes = self.source.remainders
        if isinstance(by, int) and notes is not None:
            notes.append((self, int(by)))

    def _computed(self) -> None:
        """Tells that more than sizes is computed with a quotient."""
        by = self.divisor
        if by is not None and by.divisors is not None and by.attribute:
            by.divisors.append((by.attribute, self))

    def _scaled(
        self, value: int, times: int, parts: int, other: Width | None = None
    ) -> Width:
        times, parts = self.times * times, self.parts * parts
        common = math.gcd(times, parts)
        return Width(
            value, self.source, times // common, parts // common, other
        )


class Sum(Counted):
    """A sum or difference of numbers of channels, which follows them all.

    Args:
        value (int): The number.
        terms (tuple[Width, ...]): Of what.

    Examples:
        >>> source = Source(None, lambda: torch.arange(12))
        >>> a, b = Width(12, source), Width(5, source)
        >>> (a + b).terms, type(sum([a, b])).__name__, type(a - 1).__name__
        ((12, 5), 'Sum', 'Computed')
    """

    _terms: tuple[Width, ...]

    def __new__(cls, value: int, terms: tuple[Width, ...]) -> Sum:
        """Makes the number; arguments as above."""
        found = super().__new__(cls, value)
        found._terms = terms
        return found

    @property
    def terms(self) -> tuple[Width, ...]:
        """Of what it is the sum."""
        return self._terms


class Derived(Followed):
    """What is no size any more, computed from a number of channels.

    It tells with what code compares it, and nothing else.

    Args:
        value (int or float): The number.
        base (Counted): The number of channels.
        function (Callable): Computes one from the other; it never falls, or
            never rises.
    """

    base: Counted
    function: Callable[[int], float]

    def __new__(
        cls, value: float, base: Counted, function: Callable[[int], float]
    ) -> Derived:
        """Makes the number; arguments as above."""
        # The class is one of numbers, too: those of its kind.
        make: Any = cls.kind.__new__
        found: Derived = make(cls, value)
        found.base, found.function = base, function
        return found

    def compared(self, name: str, other: float) -> None:
        """Notes a comparison.

        Args:
            name (str): As :mod:`operator` calls it.
            other (float): With what.
        """
        value = plain(self)
        if isinstance(other, Derived):
            return  # both may become fewer
        if isinstance(other, Counted):
            other.compared(MIRRORED[name], value)
            return
        notes = self.base.terms[0].source.compared
        if notes is None:
            return
        unlike = name in EQUALITIES and value != other
        if unlike:
            # It stays another one as long as it is on the same side.
            name = 'gt' if value > other else 'lt'
        compare, most = getattr(operator, name), int(self.base)
        outcome = compare(value, other)
        # The function never falls, or never rises: of all numbers up to the
        # base those from some one on compare alike.
        least = bisect_left(
            range(most + 1),
            True,
            1,
            most,
            key=lambda count: compare(self.function(count), other) is outcome,
        )
        if least > 1 and not (unlike and self.function(least - 1) != other):
            notes.append((self.base, least, None))  # it does not go past it

    def __mul__(self, other: Any) -> Any:
        return _made('mul', self, other)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return _made('mul', self, -1)


class Computed(Derived, int):
    """A whole number that is computed from a number of channels.

    Args:
        value (int): The number, such as ``C + 1`` or ``C // 3``.
        base (Counted): See :class:`Derived`.
        function (Callable): See :class:`Derived`.

    Examples:
        >>> width = Width(16, Source(None, lambda: torch.arange(16)))
        >>> third = width // 3
        >>> third, third.base, third.function(10)
        (5, 16, 3)
    """


class Fraction(Derived, float):
    """A fraction that is computed from a number of channels.

    Args:
        value (float): The number, such as ``C / 2`` or ``C * 0.75``.
        base (Counted): See :class:`Derived`.
        function (Callable): See :class:`Derived`.

    Examples:
        >>> width = Width(15, Source(None, lambda: torch.arange(15)))
        >>> half = width / 2
        >>> half, half.function(9), type(math.ceil(half)).__name__
        (7.5, 4.5, 'Computed')
    """

    kind = float

    def __floor__(self) -> Any:
        return self._rounded(math.floor)

    def __ceil__(self) -> Any:
        return self._rounded(math.ceil)

    def __round__(self, digits: Any = None) -> Any:
        return self._rounded(partial(round, ndigits=digits))

    def _rounded(self, function: Callable[[float], float]) -> Any:
        inner = self.function
        value = function(plain(self))
        return _derived(value, self.base, lambda count: function(inner(count)))


def _made(name: str, first: Any, second: Any) -> Any:
    """What an operator makes of a number that is followed, and another one.

    Args:
        name (str): The operator, as :mod:`operator` calls it.
        first (int or float): Its left side.
        second (int or float): Its right side; one of both is followed.
    """
    left = isinstance(first, Followed)
    known, other = (first, second) if left else (second, first)
    if not isinstance(other, (int, float)):
        return NotImplemented
    apply = getattr(operator, name)
    value = apply(plain(first), plain(second))
    if name in SUMS and isinstance(known, Counted):
        if isinstance(other, Counted):
            return Sum(value, (*known.terms, *other.terms))
        if left and type(other) is int and other == 0:
            return known
    if isinstance(other, Followed):
        return value  # of two that become fewer no number tells when
    base, inner = _origin(known)

    def function(count: int) -> float:
        changed = inner(count)
        found: float = apply(*((changed, other) if left else (other, changed)))
        return found

    return _derived(value, base, function)


def _derived(
    value: float, base: Counted, function: Callable[[int], float]
) -> Derived:
    cls = Fraction if isinstance(value, float) else Computed
    return cls(value, base, function)


def _origin(known: Any) -> tuple[Counted, Callable[[int], float]]:
    """The number of channels that one is computed from, and how."""
    if isinstance(known, Derived):
        return known.base, known.function
    # -C, of which -(-C // 8) is C / 8, rounded up.
    first = known.terms[0]
    if known.terms == (first,) and int(known) == -int(first):
        return first, operator.neg
    return known, int
