# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sizes that Python takes from shapes and attributes, and gives to functions.

``x.view(B, N, heads, C // heads)`` with ``B, N, C = y.shape``, or a split into
pieces of ``self.channels``: operators see numbers. While a network is traced
these numbers know which channels they count. Where one of them tells how long
a dimension of channels is, both must shrink alike, and an attribute follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.fitted import VIEWS
from .graph import NO_CHANNEL
from .labels import Axis, Labels
from .record import no_nodes
from .thresholds import (
    MIRRORED,
    Remainder,
    Threshold,
    comparison,
    in_own_code,
    least_value,
)

if TYPE_CHECKING:
    from .tracer import Tracer

SIZED = 'as many as something that stays, which takes its size from them'
# A size that a function was given, the tensor that has it, and its dimension.
Sized = tuple[Any, Tensor, int]


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


class Counted(int):
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
        plain = int(other) if isinstance(other, Counted) else other
        least = least_value(name, int(self), plain)
        notes = self.terms[0].source.compared
        against = other if isinstance(other, Counted) else None
        equal = name in EQUALITIES and int(self) == plain
        if notes is not None and (equal or least is not None):
            notes.append((self, least, against))

    __eq__ = comparison('eq')
    __ge__ = comparison('ge')
    __gt__ = comparison('gt')
    __le__ = comparison('le')
    __lt__ = comparison('lt')
    __ne__ = comparison('ne')
    __hash__ = int.__hash__


# A number, the least one that would have compared so, None where both are
# equal, and the number of channels that it was compared with, if it was one.
Compared = tuple[Counted, int | None, 'Counted | None']
# Comparisons that tell that two numbers are the same, or are not.
EQUALITIES = 'eq', 'ne'
# A number, and by what it is divided with a remainder.
Divided = tuple['Width', int]
# Name of an attribute, and a quotient by it that more is computed with.
Divisor = tuple[str, 'Width']


class Width(Counted):
    """A number of channels that knows which ones it counts.

    It is ``times / parts`` as many as its source has. Products with and
    quotients by numbers know it too; sums with others of its kind are a
    :class:`Sum`, and all else gives plain numbers.

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
        (6, 1, 2, 'int')
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
        value = int.__mul__(self, other)
        if not isinstance(other, int) or other < 1:
            return value
        other_way = None
        if isinstance(other, Width):
            other_way = other._scaled(value, int(self), 1)
        return self._scaled(value, int(other), 1, other_way)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        value = int.__floordiv__(self, other)
        # 7 // 2 is not proportional to the 7.
        if not isinstance(other, int) or other < 1 or value * other != self:
            return value
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
        return int.__truediv__(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        self._computed()
        return int.__rtruediv__(self, other)

    def __add__(self, other: Any) -> Any:
        return _added(int.__add__(self, other), self, other)

    # sum() begins with 0.
    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return _added(int.__sub__(self, other), self, other)

    def __neg__(self) -> Sum:
        return Sum(-int(self), (self,))

    def __reduce__(self) -> Any:
        # A module may keep it: in copies and files it is a number.
        return int, (int(self),)

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
        ((12, 5), 'Sum', 'int')
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

    def __add__(self, other: Any) -> Any:
        return _added(int.__add__(self, other), self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return _added(int.__sub__(self, other), self, other)

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _added(value: Any, first: Width | Sum, second: Any) -> Any:
    """A sum or difference, which follows channels if both numbers do."""
    if isinstance(second, Counted):
        return Sum(value, (*first.terms, *second.terms))
    # Of anything else than numbers it is NotImplemented.
    return first if type(second) is int and second == 0 else value


class Sizes:
    """Follows numbers of channels from where they are read to their use.

    Args:
        tracer (Tracer): Receives ties, and the sites of attributes.

    ``counting`` says whether shapes are read in numbers that know what they
    count.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        # Numbers, labels of the dimensions that they are the size of, and the
        # module whose view could be given another one, if any.
        self._used: list[tuple[Width, Tensor, str]] = []
        self.compared: list[Compared] = []
        self._divided: list[Divided] = []
        self.counting = True
        self._blank = False

    def read(self, tensor: Tensor, size: Any) -> Any:
        """Returns the shape of a tensor in numbers that know what they count.

        Args:
            tensor (Tensor): The tensor.
            size (torch.Size): Its shape.
        """
        axes = self.tracer.labels(tensor).axes if self.counting else None
        if not axes:
            return size
        numbers = list(size)
        for dim, axis in axes.items():
            ids = partial(getattr, axis, 'ids')
            numbers[dim] = Width(numbers[dim], self.source(ids))
        return torch.Size(numbers)

    def source(self, labels: Callable[[], Tensor]) -> Source:
        """Returns the source of a number of channels.

        Args:
            labels (Callable): Returns the labels of all that it counts.
        """
        return Source(
            self.tracer.graph,
            labels,
            compared=self.compared,
            remainders=self._divided,
        )

    def note(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Any,
    ) -> None:
        """Notes of which dimensions numbers tell the size.

        Args:
            func (Any): A function of PyTorch.
            args (Sequence): Its arguments by position.
            kwargs (Mapping): Its arguments by name.
            out (Any): What it returned.
        """
        for size, tensor, dim in SIZES[func](args, kwargs, out):
            labels = self.tracer.labels(tensor)
            constant = func in CONSTANTS and not self._blank
            counted = self._counted(size) if constant else None
            if counted is not None:
                # As wide as what it counts, now and then.
                axis = Axis(counted, func in ZEROS)
                self.tracer.set(tensor, Labels({**labels.axes, dim: axis}))
                continue
            if not self._is_own(size):
                continue
            if not size.source.attribute and self.tracer.heads.fits(
                self.tracer.running(), labels.axes.get(dim)
            ):
                continue
            if dim in labels.axes:
                last = func in VIEWS and not kwargs and dim == tensor.dim() - 1
                fits = last and not size.source.attribute
                module = self.tracer.running() if fits else ''
                self.count(size, labels.axes[dim].ids, module)

    @contextmanager
    def blank_constants(self) -> Iterator[None]:
        """Lets zeros and ones have no channels.

        A kernel may fill them that no dispatch mode sees, and with anything.
        """
        before, self._blank = self._blank, True
        try:
            yield
        finally:
            self._blank = before

    def count(self, size: Width, ids: Tensor, module: str = '') -> None:
        """Notes of what a number tells how much it is.

        Args:
            size (Width): The number.
            ids (Tensor): Labels of what it counts, as many.
            module (str): Name of a module whose view asks for it, and could
                be given another one. Defaults to none.
        """
        self._used.append((size, ids, module))

    def knows(self, size: Any) -> bool:
        """Returns whether a number follows channels of this trace.

        Args:
            size (Any): What a function was given.
        """
        terms = size.terms if isinstance(size, Counted) else (size,)
        return all(map(self._is_own, terms))

    def _counted(self, size: Any) -> Tensor | None:
        """Labels of all that a size counts; None if it is not as many."""
        if not isinstance(size, Counted) or not self.knows(size):
            return None
        terms = size.terms
        # A quotient leaves it open which ones, a difference is no sum.
        if sum(terms) != size or any(term.parts > 1 for term in terms):
            return None
        return torch.cat([t.source.labels().repeat(t.times) for t in terms])

    def _is_own(self, size: Any) -> bool:
        """Whether a size is known, and not kept from another trace."""
        return (
            isinstance(size, Width) and size.source.graph is self.tracer.graph
        )

    def settle(self) -> None:
        """Ties what must be as many, unless it is so already."""
        self._used += self._found_equal()
        sure = self._sure()
        fits = self.tracer.heads.fits_single(self.tracer.graph)
        pending = []
        for size, ids, module in self._used:
            chosen = _chosen(size, sure)
            counted = chosen.source.labels()
            if module and fits(module, ids, counted):
                continue
            if chosen.times > 1 or chosen.parts > 1 or not counted.equal(ids):
                pending.append((chosen, counted, ids))
        # Products behind the numbers that they are made of, which tell which
        # of several channels they count.
        for products in (False, True):
            group = [p for p in pending if (p[0].times > 1) == products]
            root = self.tracer.graph.resolve() if group else no_nodes()
            for chosen, counted, ids in group:
                if not _alike(root, ids, counted, chosen):
                    self._tie(_repeats(root, ids, chosen), counted, chosen)

    def _found_equal(self) -> Iterator[tuple[Width, Tensor, str]]:
        """Attributes that code found as large as a dimension of channels.

        ``assert x.shape[1] == self.channels`` holds as long as both are.
        """
        for number, least, other in self.compared:
            if (
                least is None
                and isinstance(number, Width)
                and isinstance(other, Width)
                and self._is_own(number)
                and self._is_own(other)
                and _is_whole(number)
                and other.source.attribute
            ):
                yield other, number.source.labels(), ''

    def thresholds(self) -> Iterator[Threshold]:
        """Yields what code asked for and got, each once."""
        sure = self._sure()
        met = set()
        for number, least, other in self.compared:
            if least is None:
                continue
            terms = () if other is None else other.terms
            if not self.knows(number) or not all(map(self._is_own, terms)):
                continue
            ids, least = self._asked(number, least, sure)
            against = [no_nodes(), *(term.source.labels() for term in terms)]
            found = Threshold(ids, least, torch.cat(against))
            # Code in loops asks the same again and again.
            key = least, *map(tuple, (ids.tolist(), found.against.tolist()))
            # Where any number but all is too little, and that is not one, it
            # shows when fewer are tried, unless others are fewer as well.
            shown = not terms and least >= max(len(ids), 3)
            if least > 1 and not shown and key not in met:
                met.add(key)
                yield found

    def remainders(self) -> Iterator[Remainder]:
        """Yields what code divided and looked at what is left over, once."""
        sure, met = self._sure(), set()
        for number, divisor in self._divided:
            if self._is_own(number):
                ids, divisor = self._asked(number, divisor, sure)
                key = divisor, tuple(ids.tolist())
                if 1 < divisor < len(ids) and key not in met:
                    met.add(key)
                    yield Remainder(ids, divisor)

    def _asked(
        self, number: Counted, least: int, sure: set[str]
    ) -> tuple[Tensor, int]:
        """Labels of what a number counts, and how many of them it asks for."""
        if isinstance(number, Width):
            chosen = _chosen(number, sure)
            # 2 C / 3 >= 4: of the channels, twice each, 12 at least.
            labels = chosen.source.labels().repeat(chosen.times)
            return labels, least * chosen.parts
        counted = self._counted(number)
        return (no_nodes(), 0) if counted is None else (counted, least)

    def _sure(self) -> set[str]:
        """Names of attributes that count channels for certain."""
        return {
            size.source.attribute for size, *_ in self._used if not size.other
        }

    def _tie(self, repeats: Tensor, counted: Tensor, size: Width) -> None:
        graph = self.tracer.graph
        # [n] as [parts, n / parts]: the same columns of every row go, so that
        # a quotient stays exact. Its rows are repeated in [times, n / parts].
        # With C = 6 and C // 2: index 0 goes with 0 and 3, 1 with 1 and 4.
        rows = counted.view(size.parts, -1)
        graph.unite(rows, rows[:1], SIZED)
        graph.unite(repeats, rows[:1], SIZED)


def _is_whole(number: Width) -> bool:
    """Whether a number is the size of a dimension, and nothing else."""
    return not number.source.attribute and number.times == number.parts == 1


def _chosen(size: Width, sure: set[str]) -> Width:
    """Of two numbers in a product the one that counts channels."""
    other = size.other
    if other is None or not size.source.attribute:
        return size
    if not other.source.attribute:
        return other
    return other if other.source.attribute in sure else size


def _repeats(root: Tensor, ids: Tensor, size: Width) -> Tensor:
    """Labels of what a size counts, ``[times, n / parts]``.

    They lie one after the other, or each beside its like: of ``[heads,
    width]`` in one dimension all that belongs to a head, which goes as one.
    """
    beside = ids.view(-1, size.times)
    found = torch.where(beside < 0, NO_CHANNEL, root[beside])
    if bool((found == found[:, :1]).all()):
        return beside.T
    return ids.view(size.times, -1)


def _alike(root: Tensor, ids: Tensor, counted: Tensor, size: Width) -> bool:
    """Whether both have the same channels, in the same proportion."""
    channels, often = _counts(root, ids)
    others, how_often = _counts(root, counted)
    return channels.equal(others) and bool(
        (often * size.parts == how_often * size.times).all()
    )


def _counts(root: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Channels, and how often each occurs; what is none as one of them."""
    found = torch.where(ids < 0, NO_CHANNEL, root[ids])
    channels, often = found.unique(return_counts=True)
    return channels, often


def _reshaped(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """view, reshape, expand, zeros, ...: sizes one by one or as a list."""
    sizes = args[1:] or tuple(kwargs.values())
    yield from _listed(sizes, out)


def _filled(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """zeros, ones, ...: the same, with no tensor before."""
    yield from _listed(args or (kwargs.get('size', ()),), out)


def _unflattened(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """unflatten: sizes that take the place of one dimension."""
    given = {**dict(zip(('x', 'dim', 'sizes'), args, strict=False)), **kwargs}
    sizes, dim = given['sizes'], given['dim']
    first = dim if dim >= 0 else out.dim() - len(sizes) + dim + 1
    for place, size in enumerate(sizes, first):
        yield size, out, place


def _listed(sizes: Sequence[Any], out: Any) -> Iterator[Sized]:
    if sizes and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    for dim, size in enumerate(sizes[: out.dim()]):
        yield size, out, dim


def _split(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """split: one size of all pieces, or one for each."""
    names = 'tensor', 'split_size_or_sections', 'dim'
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    sizes = next(given[n] for n in (names[1], *SIZES_OF_SPLIT) if n in given)
    if isinstance(sizes, int):
        sizes = [sizes] * len(out)
    dim = given.get('dim', 0) % out[0].dim()
    # The last one may be shorter.
    for size, piece in zip(sizes, out, strict=False):
        if size == piece.shape[dim]:
            yield size, piece, dim


def _normalised(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """layer_norm, rms_norm: sizes of the last dimensions."""
    shape = args[1] if len(args) > 1 else kwargs['normalized_shape']
    for dim, size in enumerate(shape, out.dim() - len(shape)):
        yield size, out, dim


def _grouped(
    args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[Sized]:
    """conv2d, ...: as many groups as the input has channels."""
    names = (
        'input',
        'weight',
        'bias',
        'stride',
        'padding',
        'dilation',
        'groups',
    )
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    groups, x = given.get('groups', 1), given['input']
    # [N, C, ..] or [C, ..]; without a batch there is one dimension less.
    channels = x.dim() - given['weight'].dim() + 1
    if 1 < groups == x.shape[channels]:
        yield groups, x, channels


# What C++ calls them.
SIZES_OF_SPLIT = 'split_size', 'split_sizes'
# What is empty is not read before it is filled.
ZEROS = {torch.empty, torch.zeros, Tensor.new_empty, Tensor.new_zeros}
CONSTANTS = ZEROS | {
    torch.full,
    torch.ones,
    Tensor.new_full,
    Tensor.new_ones,
}
SIZES: dict[Any, Callable[..., Iterator[Sized]]] = {
    Tensor.new_empty: _reshaped,
    Tensor.new_full: _reshaped,
    Tensor.new_ones: _reshaped,
    Tensor.new_zeros: _reshaped,
    Tensor.reshape: _reshaped,
    Tensor.split: _split,
    Tensor.split_with_sizes: _split,
    Tensor.unflatten: _unflattened,
    Tensor.view: _reshaped,
    functional.layer_norm: _normalised,
    functional.rms_norm: _normalised,
    torch.conv1d: _grouped,
    torch.conv2d: _grouped,
    torch.conv3d: _grouped,
    torch.empty: _filled,
    torch.full: _filled,
    torch.ones: _filled,
    torch.reshape: _reshaped,
    torch.split: _split,
    torch.split_with_sizes: _split,
    torch.unflatten: _unflattened,
    torch.zeros: _filled,
}
