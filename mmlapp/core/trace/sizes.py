# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sizes that Python takes from shapes and attributes, and gives to functions.

``x.view(B, N, heads, C // heads)`` with ``B, N, C = y.shape``, or a split into
pieces of ``self.channels``: operators see numbers. While a network is traced
these numbers know which channels they count. Where one of them tells how long
a dimension of channels is, both must shrink alike, and an attribute follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..attention.fitted import VIEWS
from .counted import Compared, Counted, Divided, Source, Width
from .graph import NO_CHANNEL
from .labels import Axis, Labels
from .record import no_nodes
from .sized_functions import CONSTANTS, SIZES, ZEROS
from .thresholds import (
    Remainder,
    Threshold,
)

if TYPE_CHECKING:
    from .tracer import Tracer

SIZED = 'as many as something that stays, which takes its size from them'


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
        # Of which the network's own code asked for the size, each once.
        self._read: dict[int, Axis] = {}
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
        self._note_read(axes.values())
        numbers = list(size)
        for dim, axis in axes.items():
            ids = partial(getattr, axis, 'ids')
            numbers[dim] = Width(numbers[dim], self.source(ids))
        return torch.Size(numbers)

    def read_length(self, tensor: Tensor) -> None:
        """Notes that code asks how many rows there are, in a plain number.

        Args:
            tensor (Tensor): The tensor.
        """
        axis = self.tracer.labels(tensor).axes.get(0)
        if axis is not None:
            self._note_read([axis])

    def _note_read(self, axes: Iterable[Axis]) -> None:
        if self.tracer.trace.path.ask():
            self._read.update((id(axis), axis) for axis in axes)

    def labels_read(self) -> Tensor:
        """Labels of what the network's own code asked for the size, once."""
        found = [no_nodes(), *(axis.ids for axis in self._read.values())]
        labels = torch.cat(found)
        unlike: Tensor = labels[labels >= 0].unique()
        return unlike

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
            terms = () if other is None else other.terms
            if least is None:
                kept = {bool(t.source.attribute) for t in number.terms}
                # What an attribute is compared with it is tied to.
                if {bool(t.source.attribute) for t in terms} != kept:
                    continue
                least = int(number)  # as many as the other one
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
