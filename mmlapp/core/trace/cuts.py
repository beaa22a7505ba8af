# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Cuts at positions that follow channels.

``x.split(self.sizes, 1)`` or ``x[:, : self.width]``: where all positions of a
cut are numbers that know what they count, see :mod:`counted`, the pieces need
not stay equally wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .counted import Sum, Width

if TYPE_CHECKING:
    from .tracer import Tracer

# Functions that cut where numbers say; not `chunk`, whose number counts no
# channels.
CUTTING = frozenset(
    {
        Tensor.__getitem__,
        Tensor.__setitem__,
        Tensor.narrow,
        Tensor.split,
        Tensor.split_with_sizes,
        torch.narrow,
        torch.split,
        torch.split_with_sizes,
    }
)
# Where a piece begins and ends.
Span = tuple[int, int]


def numbers_in(value: Any) -> Iterator[int]:
    """Yields the integers among arguments, in lists and slices too.

    Args:
        value (Any): Of a function.

    Examples:
        >>> list(numbers_in((None, [2, 3], slice(4, None))))
        [2, 3, 4]
    """
    if isinstance(value, int):
        yield value
    elif isinstance(value, slice):
        yield from numbers_in((value.start, value.stop))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from numbers_in(part)


def cut_follows(tracer: Tracer, ids: Tensor, spans: Sequence[Span]) -> bool:
    """Whether a cut moves with the channels that its positions count.

    Args:
        tracer (Tracer): Knows what the running function was given; notes
            what the numbers count.
        ids (Tensor): Labels of what is cut, ``[size]``.
        spans (Sequence[Span]): Its pieces.
    """
    given = [n for n in numbers_in(tracer.given) if tracer.sizes.knows(n)]
    if not given or not spans:
        return False
    if len(spans) > 1:
        return _sizes_follow(tracer, ids, spans)
    ((start, end),) = spans
    found = {position: _at(given, position, len(ids)) for position in spans[0]}
    # narrow(x, dim, start, length) is given numbers alone, no slices.
    if found[end] is None and all(isinstance(n, int) for n in tracer.given):
        found[end] = _at(given, end - start, 0)
    for position, number in found.items():
        if number is None and 0 < position < len(ids):
            return False
    # Where it ends with what is cut its number counts, too.
    for position, number in found.items():
        _note(tracer, ids, position, (start, end), number)
    return True


def _sizes_follow(tracer: Tracer, ids: Tensor, spans: Sequence[Span]) -> bool:
    """Whether a size was given for each piece, and follows channels."""
    lengths = [end - start for start, end in spans]
    given = (s for s in tracer.given if isinstance(s, (tuple, list)))
    sizes = next((s for s in given if list(s) == lengths), [None])
    if not all(map(tracer.sizes.knows, sizes)):
        return False
    for size, span in zip(sizes, spans, strict=True):
        # Of others the function tells the piece when it has run.
        if isinstance(size, Sum):
            _note(tracer, ids, span[0], span, size)
    return True


def _at(given: Sequence[int], position: int, size: int) -> int | None:
    """The number that says a position, perhaps from the end."""
    places = {position, position - size} - {0}
    return next((n for n in given if n in places), None)


def _note(
    tracer: Tracer, ids: Tensor, position: int, span: Span, number: Any
) -> None:
    """Notes what a number counts that says where a piece begins or ends."""
    piece = ids[slice(*span)]
    if isinstance(number, Width):
        # What lies before the position, or the piece itself.
        before = ids[:position]
        tracer.sizes.count(number, before if number == position else piece)
    elif isinstance(number, Sum):
        # -b at the end, a + b of the piece [a, a + b], c - b of all c: of what
        # a term is as long as.
        parts = ids, piece, ids[:position], ids[position:]
        for term in number.terms:
            part = next((p for p in parts if len(p) == term), None)
            if part is not None:
                tracer.sizes.count(term, part)
