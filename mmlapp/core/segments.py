# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a vector that lie one after the other, worked on all at once.

A GPU is asked for a few large things, not for many small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


class Segments:
    """Consecutive parts of a vector, such as the channels of groups.

    Args:
        sizes (Sequence[int]): Entries of every part.
        device (torch.device or str): Where its tensors lie. Defaults to the
            CPU.

    Attributes:
        owner (Tensor): Part of every entry, ``[entries]``.
        place (Tensor): Its place there, from 0 on; ``[entries]``.
        count (Tensor): Entries of every part, ``[parts]``.

    Examples:
        >>> parts = Segments([2, 3])
        >>> parts.owner, parts.place
        (tensor([0, 0, 1, 1, 1]), tensor([0, 1, 0, 1, 2]))
        >>> parts.sum(torch.tensor([1.0, 2, 3, 4, 5]))
        tensor([ 3., 12.])
        >>> parts.ranks(torch.tensor([5.0, 4, 9, 7, 8]))
        tensor([1, 0, 2, 0, 1])
    """

    def __init__(
        self, sizes: Sequence[int], device: torch.device | str = 'cpu'
    ) -> None:
        count = torch.tensor(sizes, dtype=torch.int64)
        owner = torch.arange(len(count)).repeat_interleave(count)
        start = count.cumsum(0) - count
        place = torch.arange(len(owner)) - start[owner]
        # Entry at every place of each part; where a part has no more, a zero
        # that is put behind all entries. [parts, most entries of a part]
        width = max(sizes, default=0)
        table = torch.full((len(count), width), len(owner))
        table[owner, place] = torch.arange(len(owner))
        self.owner, self.place = owner.to(device), place.to(device)
        self.count, self._start = count.to(device), start.to(device)
        self._table = table.to(device)

    def sum(self, values: Tensor) -> Tensor:
        """Sums every part, in the same order on every machine.

        Args:
            values (Tensor): Shape ``[entries]``.

        Returns:
            Tensor: Shape ``[parts]``.
        """
        # Not index_add: a GPU adds in the order in which it comes to it, and
        # processes must decide alike.
        padded = torch.cat([values, values.new_zeros(1)])
        return padded[self._table].sum(1)

    def mean(self, values: Tensor) -> Tensor:
        """Averages every part, likewise; zero if it is empty."""
        return self.sum(values) / self.count.clamp_min(1)

    def order(self, values: Tensor, descending: bool = False) -> Tensor:
        """Sorts every part; of equal ones the first stays first.

        Args:
            values (Tensor): Shape ``[entries]``.
            descending (bool): Whether the largest come first. Defaults to
                False.

        Returns:
            Tensor: Entries, part after part, each sorted; ``[entries]``.
        """
        # Sorted as one, then by part: a stable sort keeps what was sorted.
        order = values.argsort(descending=descending, stable=True)
        return order[self.owner[order].argsort(stable=True)]

    def ranks(self, values: Tensor, descending: bool = False) -> Tensor:
        """Rank of every entry in its part, from 0 on; ``[entries]``.

        Args:
            values (Tensor): Shape ``[entries]``.
            descending (bool): Whether the largest comes first. Defaults to
                False.
        """
        order = self.order(values, descending)
        return torch.empty_like(order).scatter_(0, order, self.place)

    def at(self, ordered: Tensor, places: Tensor) -> Tensor:
        """Reads one entry of every part.

        Args:
            ordered (Tensor): Shape ``[entries]``.
            places (Tensor): Place in each part, ``[parts]``.
        """
        return ordered[self._start + places]


@lru_cache(maxsize=64)
def _segments(sizes: tuple[int, ...], device: torch.device) -> Segments:
    # What is kept may be asked for in a backward, too.
    with torch.inference_mode(False):
        return Segments(sizes, device)


def segments(sizes: Sequence[int], device: torch.device) -> Segments:
    """Segments of these sizes, made once for a device.

    Args:
        sizes (Sequence[int]): Entries of every part.
        device (torch.device): Where they are worked on.
    """
    return _segments(tuple(sizes), device)
