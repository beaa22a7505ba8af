# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which indices of one dimension stay, as ranges."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import PruningError

# Sizes of dimensions in a plan: what an int32 holds.
LARGEST = 2**31 - 1
# '3' or '3-7', without signs, blanks and leading zeros.
RUN = re.compile(r'(0|[1-9][0-9]{0,9})(?:-(0|[1-9][0-9]{0,9}))?')


@dataclass(frozen=True, init=False)
class Kept:
    """Indices of one dimension that stay.

    They are stored as ranges, so that what a file says takes memory in
    proportion to its text, however large the numbers in it are.

    Args:
        size (int): Dense size, from 0 to :data:`LARGEST`.
        index (Iterable[int]): Kept indices, ascending.

    Raises:
        PruningError: If the indices are no ascending subset of the size.

    Examples:
        >>> Kept(8, (0, 1, 2, 5)).text()
        '0-2,5'
        >>> Kept.parse(8, '0-2,5').index
        (0, 1, 2, 5)
    """

    size: int
    # First and last index of each range; between two of them a gap.
    runs: tuple[tuple[int, int], ...]

    def __init__(self, size: int, index: Iterable[int]) -> None:
        self._set(size, _runs(index))

    def _set(self, size: int, runs: Iterable[tuple[int, int]]) -> None:
        if not 0 <= size <= LARGEST:
            raise PruningError(
                f'kept indices of size {size}: expected 0 to {LARGEST}'
            )
        # (0, 2) (5, 7) -> 0 <= 2 < 5 <= 7: each after the one before.
        found: list[tuple[int, int]] = []
        end = -1
        for first, last in runs:
            if not end < first <= last < size:
                raise PruningError(
                    f'kept indices {_range_text(first, last)!r}: expected '
                    f'ascending numbers from 0 to {size - 1}'
                )
            if found and first == end + 1:
                # (0, 1) (2, 5) is (0, 5): equal indices are equal.
                first = found.pop()[0]
            found.append((first, last))
            end = last
        # Frozen: only here.
        object.__setattr__(self, 'size', size)
        object.__setattr__(self, 'runs', tuple(found))

    # Dimensions of a group share one object, so that it is made once.
    @cached_property
    def index(self) -> tuple[int, ...]:
        """The kept indices, ascending."""
        return tuple([i for a, b in self.runs for i in range(a, b + 1)])

    def positions(self, device: torch.device) -> Tensor:
        """Returns the kept indices as a tensor to read, int64 ``[count]``.

        Args:
            device (torch.device): Where it is wanted.
        """
        if not self._numbers:
            return torch.zeros(0, dtype=torch.int64, device=device)
        found = torch.frombuffer(self._numbers, dtype=torch.int64)
        return found.to(device)

    # A tensor of its memory costs nothing; of a tuple it would cost more
    # than what is looked up with it.
    @cached_property
    def _numbers(self) -> array[int]:
        return array('q', self.index)

    @cached_property
    def count(self) -> int:
        """Number of kept indices."""
        return sum([b - a + 1 for a, b in self.runs])

    @property
    def whole(self) -> bool:
        """Whether all indices are kept."""
        # One range from end to end; of size 0 none.
        return self.runs == (((0, self.size - 1),) if self.size else ())

    def mask(self) -> Tensor:
        """Returns the indices as a bool mask, ``[size]``."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        for first, last in self.runs:
            mask[first : last + 1] = True
        return mask

    @classmethod
    def from_mask(cls, mask: Tensor) -> Kept:
        """Makes one from a bool mask, ``[size]``."""
        return cls(mask.numel(), mask.nonzero()[:, 0].tolist())

    def text(self) -> str:
        """Returns the indices as ranges."""
        return ','.join(_range_text(*run) for run in self.runs)

    @classmethod
    def parse(cls, size: int, text: str) -> Kept:
        """Reads what :meth:`text` wrote.

        Args:
            size (int): Dense size.
            text (str): Ranges, none for an empty text.

        Raises:
            PruningError: If the text is malformed, or no ascending subset.
        """
        # Past __init__, which would want every index one by one.
        kept = cls.__new__(cls)
        kept._set(size, (_parse_run(run) for run in _split(text)))
        return kept


def _split(text: str) -> Iterator[str]:
    return iter(text.split(',') if text else ())


def _parse_run(text: str) -> tuple[int, int]:
    found = RUN.fullmatch(text)
    if found is None:
        raise PruningError(
            f'kept indices {text[:40]!r}: expected ranges such as 0-15,17'
        )
    return int(found[1]), int(found[2] or found[1])


def _range_text(first: int, last: int) -> str:
    return str(first) if first == last else f'{first}-{last}'


def _runs(index: Iterable[int]) -> Iterator[tuple[int, int]]:
    # 0 1 2 5 7 8 -> (0, 2) (5, 5) (7, 8)
    start = previous = None
    for i in index:
        if start is None or previous is None:
            start = i
        elif i != previous + 1:
            yield start, previous
            start = i
        previous = i
    if start is not None and previous is not None:
        yield start, previous
