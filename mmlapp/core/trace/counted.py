# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers that know which channels they count.

They compute as plain ones do, and tell who compares them and what is left over
when they are divided.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from .bases import least_count, period, turns, unlike_of
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
        ask (Callable, optional): Called where more than sizes is computed
            with it, or it is compared. Defaults to None: nobody asks.
    """

    graph: object
    labels: Callable[[], Tensor]
    attribute: str = ''
    divisors: list[Divisor] | None = None
    compared: list[Compared] | None = None
    remainders: list[Divided] | None = None
    ask: Callable[[], object] | None = None


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

    def divided(self, by: Any) -> None:
        """Notes that code looks at what is left over by a division.

        Args:
            by (int or float): By what.
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

    def __mod__(self, other: Any) -> Any:
        if not in_own_code():
            _note_rest(self, other)
        return operator.mod(plain(self), plain(other))

    def __rmod__(self, other: Any) -> Any:
        if not in_own_code():
            _note_rest(other, self)
        return operator.mod(plain(other), plain(self))

    def __divmod__(self, other: Any) -> Any:
        if not in_own_code():
            _note_rest(self, other)
        return divmod(plain(self), plain(other))

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


def _note_rest(number: Any, by: Any) -> None:
    """Notes that code looks at what is left over by a division."""
    if isinstance(number, Followed):
        number.divided(by)
    if isinstance(by, Followed):
        # What is left over by fewer may be anything: each of them is another.
        by.divided(int(plain(by)) - 1)


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
    def signed(self) -> tuple[tuple[Width, int], ...]:
        """Of what it is the sum, each with 1, or -1 for what is taken away."""
        raise NotImplementedError

    @property
    def terms(self) -> tuple[Width, ...]:
        """What it is made of, by adding and taking away."""
        return tuple(width for width, _ in self.signed)

    def __neg__(self) -> Sum:
        return Sum(-int(self), _negative(self.signed))

    def compared(self, name: str, other: float) -> None:
        """Notes a comparison.

        Args:
            name (str): As :mod:`operator` calls it.
            other (float): With what.
        """
        if isinstance(other, Derived):
            other.compared(MIRRORED[name], self)
            return
        # a - b > k is a > b + k, and b < a - k.
        signed, constant = self.signed, plain(other)
        if isinstance(other, Counted):
            signed, constant = (*signed, *_negative(other.signed)), 0
        more, fewer = _sides(signed)
        if more is not None:
            _note(more, name, fewer, constant)
        if fewer is not None:
            _note(fewer, MIRRORED[name], more, -constant)

    def divided(self, by: Any) -> None:
        """Notes that code looks at what is left over by a division.

        Args:
            by (int or float): By what.
        """
        for width in self.terms:
            notes = width.source.remainders
            if isinstance(by, int) and notes is not None:
                notes.append((width, int(by)))


def _negative(
    signed: tuple[tuple[Width, int], ...],
) -> tuple[tuple[Width, int], ...]:
    return tuple((width, -sign) for width, sign in signed)


def _sides(
    signed: Sequence[tuple[Width, int]],
) -> tuple[Counted | None, Counted | None]:
    """What is added, and what is taken away; None for nothing."""
    more = _total([width for width, sign in signed if sign > 0])
    return more, _total([width for width, sign in signed if sign < 0])


def _total(widths: Sequence[Width]) -> Counted | None:
    if len(widths) < 2:
        return widths[0] if widths else None
    return Sum(sum(map(int, widths)), tuple((w, 1) for w in widths))


def _note(
    number: Counted, name: str, against: Counted | None, offset: float
) -> None:
    """Notes that a number was compared with another one and a constant."""
    value = (0 if against is None else int(against)) + offset
    least = least_value(name, int(number), value)
    equal = name in EQUALITIES and int(number) == value
    if against is not None and offset:
        equal = False  # one is not as many as the other
    notes = number.terms[0].source.compared
    if notes is not None and (equal or least is not None):
        notes.append((number, least, against))


# A number, the least one that would have compared so, None where both are
# equal, and the number of channels that it was compared with, if it was one.
Compared = tuple[Counted, int | None, 'Counted | None']
# Comparisons that tell that two numbers are the same, or are not.
EQUALITIES = 'eq', 'ne'
# Of how many numbers, in how many steps, what is computed is followed.
MOST_BASES, MOST_STEPS = 4, 100
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
    # The same, computed from two numbers of channels, if it was.
    joined: Followed | None = None

    def compared(self, name: str, other: float) -> None:
        """Notes a comparison.

        Args:
            name (str): As :mod:`operator` calls it.
            other (float): With what.
        """
        self._asked()
        if self.joined is None:
            super().compared(name, other)
        else:
            self.joined.compared(name, other)

    @property
    def signed(self) -> tuple[tuple[Width, int], ...]:
        """Itself."""
        return ((self, 1),)

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
            self._asked()
            return _made('mul', self, other)
        value = int.__mul__(self, other)
        if not isinstance(other, int) or other < 1:
            return value
        other_way = None
        if isinstance(other, Width):
            other_way = other._scaled(value, int(self), 1)
        found = self._scaled(value, int(other), 1, other_way)
        found.joined = self._with('mul', other)
        return found

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
        found.joined = self._with('floordiv', other)
        return found

    def _with(self, name: str, other: int) -> Followed | None:
        """What is computed of two numbers; None of one, or of attributes."""
        if not isinstance(other, Width) and self.joined is None:
            return None
        # Attributes may count something else: heads, for one.
        sources = [w.source for w in (self, other) if isinstance(w, Width)]
        if any(source.attribute for source in sources):
            return None
        found = _joined(name, self.joined or self, other)
        return found if isinstance(found, Followed) else None

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

    def _computed(self) -> None:
        """Tells that more than sizes is computed with a quotient."""
        self._asked()
        by = self.divisor
        if by is not None and by.divisors is not None and by.attribute:
            by.divisors.append((by.attribute, self))

    def _asked(self) -> None:
        if self.source.ask is not None:
            self.source.ask()

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
        signed (tuple[tuple[Width, int], ...]): Of what, each with 1, or -1 for
            what is taken away.

    Examples:
        >>> source = Source(None, lambda: torch.arange(12))
        >>> a, b = Width(12, source), Width(5, source)
        >>> (a + b).terms, type(sum([a, b])).__name__, type(a - 1).__name__
        ((12, 5), 'Sum', 'Computed')
    """

    _signed: tuple[tuple[Width, int], ...]

    def __new__(cls, value: int, signed: tuple[tuple[Width, int], ...]) -> Sum:
        """Makes the number; arguments as above."""
        found = super().__new__(cls, value)
        found._signed = signed
        return found

    @property
    def signed(self) -> tuple[tuple[Width, int], ...]:
        """Of what it is the sum."""
        return self._signed


class Derived(Followed):
    """What is no size any more, computed from numbers of channels.

    It tells with what code compares it, and nothing else.

    Args:
        value (int or float): The number.
        bases (tuple[Counted, ...]): The numbers of channels.
        function (Callable): Computes one from the others, in order.
        steps (int): In how many steps. Defaults to 0.
    """

    bases: tuple[Counted, ...]
    function: Callable[..., float]
    steps: int

    def __new__(
        cls,
        value: float,
        bases: tuple[Counted, ...] = (),
        function: Callable[..., float] = float,
        steps: int = 0,
    ) -> Any:
        """Makes the number; arguments as above."""
        # Code may ask for another number of its type.
        if not bases:
            return cls.kind(value)
        # The class is one of numbers, too: those of its kind.
        make: Any = cls.kind.__new__
        found: Derived = make(cls, value)
        found.bases, found.function, found.steps = bases, function, steps
        return found

    def compared(self, name: str, other: float) -> None:
        """Notes a comparison.

        Args:
            name (str): As :mod:`operator` calls it.
            other (float): With what.
        """
        if isinstance(other, Followed):
            # f(a) > g(b) is f(a) - g(b) > 0.
            difference = _joined('sub', self, other)
            if isinstance(difference, Derived):
                difference.compared(name, 0)
            return
        value = plain(self)
        unlike = name in EQUALITIES and value != other
        if unlike:
            # It stays another one as long as it is on the same side.
            name = 'gt' if value > other else 'lt'
        compare = getattr(operator, name)
        outcome = compare(value, other)

        def alike(number: float) -> bool:
            return compare(number, other) is outcome

        for place, base in enumerate(self.bases):
            function = self._along(place)
            if by := turns(int(base), function, alike):
                # ceil(C / 2) * 2 - C > 0 asks whether C is even, not how many
                # there are.
                base.divided(by)
                continue
            least = least_count(int(base), function, alike)
            past = unlike and least > 1 and function(least - 1) != other
            notes = base.terms[0].source.compared
            if notes is not None and least > 1 and not past:
                notes.append((base, least, self._beside(place)))

    def divided(self, by: Any) -> None:
        """Notes that code looks at what is left over by a division.

        Args:
            by (int or float): By what.
        """
        if not isinstance(by, int):
            return
        for place, base in enumerate(self.bases):
            base.divided(period(self._along(place), int(base), int(by)))

    def _along(self, place: int) -> Callable[[int], float]:
        """The function of one base; all others are what they are."""
        counts = [int(base) for base in self.bases]

        def function(count: int) -> float:
            return self.function(*counts[:place], count, *counts[place + 1 :])

        return function

    def _beside(self, place: int) -> Counted | None:
        """All that may become fewer beside one base."""
        others = (*self.bases[:place], *self.bases[place + 1 :])
        return _total([width for base in others for width in base.terms])

    def __mul__(self, other: Any) -> Any:
        return _made('mul', self, other)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return _made('mul', self, -1)


class Computed(Derived, int):
    """A whole number that is computed from a number of channels.

    Args:
        value (int): The number, such as ``C + 1`` or ``C // 3``.
        bases (tuple[Counted, ...]): See :class:`Derived`.
        function (Callable): See :class:`Derived`.

    Examples:
        >>> width = Width(16, Source(None, lambda: torch.arange(16)))
        >>> third = width // 3
        >>> third, third.bases, third.function(10)
        (5, (16,), 3)
    """


class Fraction(Derived, float):
    """A fraction that is computed from a number of channels.

    Args:
        value (float): The number, such as ``C / 2`` or ``C * 0.75``.
        bases (tuple[Counted, ...]): See :class:`Derived`.
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

    def _rounded(self, rounded: Callable[[float], float]) -> Any:
        inner = self.function

        def function(*counts: int) -> float:
            return rounded(inner(*counts))

        value = rounded(plain(self))
        return _derived(value, self.bases, function, self.steps + 1)


def _made(name: str, first: Any, second: Any) -> Any:
    """What an operator makes of a number that is followed, and another one.

    Args:
        name (str): The operator, as :mod:`operator` calls it.
        first (int or float): Its left side.
        second (int or float): Its right side; one of both is followed.
    """
    if not all(isinstance(side, (int, float)) for side in (first, second)):
        return NotImplemented
    if name in SUMS and isinstance(first, Counted):
        if isinstance(second, Counted):
            sign = second.signed if name == 'add' else _negative(second.signed)
            value = getattr(operator, name)(int(first), int(second))
            return Sum(value, (*first.signed, *sign))
        if type(second) is int and second == 0:
            return first
    # A divisor may be zero with fewer, or change its sign, unless it is a
    # number of channels: a quotient by it both rises and falls.
    both = isinstance(first, Followed) and isinstance(second, Followed)
    if both and name not in SUMS and not isinstance(second, Width):
        return getattr(operator, name)(plain(first), plain(second))
    return _joined(name, first, second)


def product_of(numbers: Sequence[int]) -> int:
    """Returns a product that is no size, but known when it is compared.

    Args:
        numbers (Sequence[int]): Some of them may be numbers of channels.

    Examples:
        >>> width = Width(8, Source(None, lambda: torch.arange(8)))
        >>> found = product_of([2, width])
        >>> found, type(found).__name__
        (16, 'Computed')
    """
    known = tuple(n for n in numbers if isinstance(n, Counted))
    rest = math.prod(n for n in numbers if not isinstance(n, Counted))
    if not known:
        return rest
    value = rest * math.prod(map(int, known))
    found: int = Computed(
        value, known, lambda *counts: rest * math.prod(counts)
    )
    return found


def _joined(name: str, first: Any, second: Any) -> Any:
    """What an operator makes of two numbers; arguments as above."""
    apply = getattr(operator, name)
    value = apply(plain(first), plain(second))
    sides = (first, second)
    (bases, left), (others, right) = map(_origin, sides)
    steps = 1 + max(getattr(side, 'steps', 0) for side in sides)
    many, every = len(bases), (*bases, *others)

    def function(*counts: int) -> float:
        found: float = apply(left(*counts[:many]), right(*counts[many:]))
        return found

    unlike, places = unlike_of(every)
    # In loops, of which nobody asks for the sum of hundreds of numbers.
    if len(unlike) > MOST_BASES or steps > MOST_STEPS:
        return value
    if len(unlike) == len(every):
        return _derived(value, every, function, steps)

    def once(*counts: int) -> float:
        return function(*(counts[place] for place in places))

    return _derived(value, unlike, once, steps)


def _derived(
    value: float,
    bases: tuple[Counted, ...],
    function: Callable[..., float],
    steps: int = 0,
) -> Any:
    cls = Fraction if isinstance(value, float) else Computed
    return cls(value, bases, function, steps)


def _origin(
    number: Any,
) -> tuple[tuple[Counted, ...], Callable[..., float]]:
    """The numbers of channels that one is computed from, and how."""
    if isinstance(number, Derived):
        return number.bases, number.function
    if not isinstance(number, Counted):
        return (), lambda: number
    if isinstance(number, Width) and isinstance(number.joined, Derived):
        return number.joined.bases, number.joined.function
    more, fewer = _sides(number.signed)
    if fewer is None:
        return (number,), int
    # -C, of which -(-C // 8) is C / 8, rounded up.
    if more is None:
        return (fewer,), operator.neg
    return (more, fewer), operator.sub
