# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which components of the channel graph touch the same, and are a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .trace import Trace
from .trace.graph import BASE

# Odd: a product with it, modulo 2**64, loses nothing.
MIXER = 0x1E3779B97F4A7C15
# What a reason counts for in such a number.
REASON = 0x3C6EF372FE94F82B


@dataclass(frozen=True)
class Touched:
    """For every component the sites and dimensions of calls it touches.

    Each is its number times :data:`BASE`, plus how often: counting keeps
    every factor linear in the number of kept channels of a group.

    Args:
        components (Tensor): All of them, ascending; ``[components]``.
        starts (Tensor): Where what each of them touches begins in ``all``,
            ``[components]``.
        sizes (Tensor): How much that is, ``[components]``.
        all (Tensor): What all of them touch, ascending for each.
    """

    components: Tensor
    starts: Tensor
    sizes: Tensor
    all: Tensor

    def marks(self, components: Tensor) -> Tensor:
        """One number for what each touches; of others rarely the same.

        Args:
            components (Tensor): Which ones, ``[size]``.
        """
        mixed = self.all * MIXER
        mixed = (mixed ^ (mixed >> 29)) * MIXER  # modulo 2**64
        # Sums over each part of all, as differences of sums from the start.
        sums = torch.cat([mixed.new_zeros(1), mixed.cumsum(0)])
        marks = sums[self.starts + self.sizes] - sums[self.starts]
        return marks[self._places(components)]

    def keys(self, component: int) -> list[int]:
        """What one touches.

        Args:
            component (int): Which one.
        """
        place = int(self._places(torch.tensor([component])))
        start = int(self.starts[place])
        found: list[int] = self.all[start : start + self.sizes[place]].tolist()
        return found

    def same(self, components: Tensor) -> bool:
        """Whether all of them touch exactly the same.

        Args:
            components (Tensor): Which ones, ``[size]``.
        """
        places = self._places(components)
        sizes, starts = self.sizes[places], self.starts[places]
        if not bool((sizes == sizes[0]).all()):
            return False
        # [components, size]
        keys = self.all[starts[:, None] + torch.arange(int(sizes[0]))]
        return bool((keys == keys[0]).all())

    def _places(self, components: Tensor) -> Tensor:
        return torch.searchsorted(self.components, components)


def alike(
    touched: Touched, emitted: Tensor, reasons: Mapping[int, str]
) -> list[Tensor]:
    """Components that make a group.

    Channels that touch the same dimensions equally often, and are frozen for
    the same reason, are interchangeable.

    Args:
        touched (Touched): What each component touches.
        emitted (Tensor): Components that a layer emits, ``[size]``.
        reasons (Mapping[int, str]): Why some of them are frozen.

    Returns:
        list[Tensor]: In order of the first of each.
    """
    # Reasons as numbers, 0 for none, and both in one number, modulo 2**64.
    given = list(map(reasons.get, emitted.tolist()))
    numbers = {r: k for k, r in enumerate(dict.fromkeys([None, *given]))}
    marks = (
        touched.marks(emitted)
        + torch.tensor([numbers[r] for r in given], dtype=torch.int64) * REASON
    )
    # Those of a mark follow each other, each in the order of `emitted`.
    _, owner, counts = marks.unique(return_inverse=True, return_counts=True)
    order = owner.argsort(stable=True)
    parts = sorted(order.split(counts.tolist()), key=lambda part: int(part[0]))
    found = [emitted[part] for part in parts]
    # One number for others comes once in 2**64.
    assert all(map(touched.same, found))
    return found


def touched_sites(trace: Trace, root: Tensor) -> Touched:
    """Finds out what every component touches.

    Args:
        trace (Trace): What one forward recorded.
        root (Tensor): Component of every node, ``[nodes]``.
    """
    # One entry per site, then one per dimension of a call; each lists the
    # components at its indices, [size].
    ranges = [root[s.start : s.start + s.size] for s in trace.sites]
    ranges += [
        roots(root, ids) for c in trace.calls for ids in c.dims.values()
    ]
    # Number of the entry at every index of all of them: 0 0 0 1 1 2 ..
    lengths = torch.tensor([len(part) for part in ranges])
    numbers = torch.arange(len(ranges)).repeat_interleave(lengths)
    # Behind a flatten of [C, 2, 2] a linear layer reads each channel at four
    # of its 4 C inputs: the pair of channel and layer occurs four times.
    pairs, counts = (torch.cat(ranges) * BASE + numbers).unique(
        return_counts=True
    )
    # Pairs are sorted: those of a component follow each other.
    components, sizes = (pairs // BASE).unique_consecutive(return_counts=True)
    return Touched(
        components,
        sizes.cumsum(0) - sizes,
        sizes,
        pairs % BASE * BASE + counts,
    )


def roots(root: Tensor, ids: Tensor) -> Tensor:
    """Returns the components of labels, ``[size]``, without -1 for none.

    Args:
        root (Tensor): Component of every node, ``[nodes]``.
        ids (Tensor): The labels, ``[size]``.
    """
    return root[ids[ids >= 0]]
