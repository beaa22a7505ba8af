# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Costs that are sums of products of channel counts."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from ..groups import Groups
from ..trace import LayerCall
from .base import Cost


@dataclass(frozen=True)
class Term:
    """Part of a cost: its dense value, which shrinks with some dimensions.

    Args:
        name (str): Name of the layer.
        dense (float): With all channels.
        factors (Sequence[Tensor]): Labels of every dimension that it is
            proportional to, each ``[size]``, -1 for what stays.
        pairs (tuple[Tensor, Tensor], optional): Labels of both ends of each
            pair of channels that it is the sum over; no factors then.
    """

    name: str
    dense: float
    factors: Sequence[Tensor] = ()
    pairs: tuple[Tensor, Tensor] | None = None

    @property
    def constant(self) -> float:
        """What does not depend on channels: of one pair, or one of each."""
        if self.pairs is not None:
            return self.dense / len(self.pairs[0])
        # dense = constant * len(factors[0]) * len(factors[1]) ...: narrowed,
        # each length becomes the number of living labels.
        return self.dense / math.prod(f.numel() for f in self.factors)


def term_of(
    call: LayerCall, dense: float, dims: Collection[str] | None = None
) -> Term:
    """Makes a term that is proportional to dimensions of a call.

    Args:
        call (LayerCall): The call.
        dense (float): Its cost with all channels.
        dims (Collection[str], optional): Which dimensions. Defaults to None:
            all of them, or the pairs of channels of a grouped layer.

    Examples:
        >>> from torch import nn
        >>> from mmlapp.core import analyse
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> call = analyse(net, torch.rand(1, 3, 9, 9)).trace.calls[0]
        >>> outputs = 8 * 7 * 7  # [channels, height, width]
        >>> term_of(call, outputs, dims=['out']).constant  # of one channel
        49.0
    """
    if dims is None and call.pairs is not None:
        return Term(call.name, dense, pairs=call.pairs)
    chosen = call.dims if dims is None else dims
    factors = tuple(ids for name, ids in call.dims.items() if name in chosen)
    return Term(call.name, dense, factors)


@dataclass
class Factor:
    """A channel count: a constant plus kept channels times how often."""

    offset: float
    counts: dict[int, float] = field(default_factory=dict)


class MultilinearCost(Cost):
    r"""A sum over layers, multilinear in the kept channels.

    .. math:: F(m) = \sum_l c_l \prod_j (o_{lj} + \sum_g n_{ljg} K_g)
              + \sum_p c_p m_{a(p)} m_{b(p)}, \quad K_g = \sum_{i \in g} m_i

    Term l is proportional to the kept part of each of its dimensions j;
    layers that join single pairs p of channels are counted pair by pair.
    Differentiable in ``m``, and exact where it is 0 or 1.

    Args:
        terms (Sequence[Term]): Of the network and its branches.
        groups (Groups): Which label belongs to which prunable group.
        dense (float): Of the user's own network.

    Examples:
        >>> from torch import nn
        >>> from mmlapp.core import analyse
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> found = analyse(net, torch.rand(1, 3, 9, 9))
        >>> terms = [
        ...     term_of(call, math.prod(call.outputs), dims=['out'])
        ...     for call in found.trace.calls
        ... ]
        >>> dense = 8 * 7 * 7 + 4 * 5 * 5  # the last 4 channels stay
        >>> activations = MultilinearCost(terms, found.groups, dense)
        >>> float(activations(torch.tensor([1.0, 0.0] * 4)))
        296.0
    """

    constant: Tensor
    offset: Tensor
    counts: Tensor
    group: Tensor
    first: Tensor
    second: Tensor
    pair: Tensor
    pair_constant: Tensor

    def __init__(
        self,
        terms: Sequence[Term],
        groups: Groups,
        dense: float,
    ) -> None:
        super().__init__()
        self.dense = dense
        pairs = [t for t in terms if t.pairs is not None]
        terms = [t for t in terms if t.pairs is None]
        self.names = [t.name for t in terms]
        self.pair_names = [p.name for p in pairs]
        factors, index = _factors(terms, groups)
        counts = counts_of(factors, groups)
        buffers = {
            'constant': doubles([t.constant for t in terms]),
            # [most factors of a term, terms], and [.., .., groups].
            'offset': doubles([f.offset for f in factors])[index.T],
            'counts': counts[index.T],
            'group': group_of_channel(groups),
            **_pair_buffers(pairs, groups),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, mask: Tensor) -> Tensor:
        """Returns the total.

        Args:
            mask (Tensor): Kept (1) or removed (0) channels, global order,
                shape ``[channels]``.

        Returns:
            Tensor: Scalar, float64.
        """
        terms, pairs = self.by_term(mask)
        return terms.sum() + pairs.sum()

    def by_term(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the cost term by term, plain and pairwise."""
        # At 0 and 1 every factor is the number of indices that stay, and a
        # pair counts where both its ends live: the cost of the narrow layers.
        # By the product rule the gradient by m_i, i in g, is
        # sum_l c_l sum_j n_ljg prod_{k != j} factor_lk, plus c_p m_b for each
        # pair of i and b: the cost of one more channel, to first order.
        mask = mask.double()
        # K_g, [channels] -> [groups].
        kept = mask.new_zeros(self.counts.shape[-1]).index_add(
            0, self.group, mask
        )
        # o + n K, padded with ones: [most factors of a term, terms].
        factors = self.offset + self.counts @ kept
        # Not prod(): its gradient asks a GPU whether a factor is zero.
        terms = reduce(torch.mul, factors.unbind(), self.constant)
        # The last entry stands for a channel that nobody removes.
        padded = torch.cat([mask, mask.new_ones(1)])
        pairs = padded[self.first] * padded[self.second] * self.pair_constant
        return terms, pairs

    def by_layer(self, mask: Tensor) -> dict[str, float]:
        """Returns the cost of every layer by name."""
        total: dict[str, float] = {}
        terms, pairs = self.by_term(mask)
        for name, value in zip(self.names, terms.tolist(), strict=True):
            total[name] = total.get(name, 0.0) + value
        for pair, value in zip(
            self.pair.tolist(), pairs.tolist(), strict=True
        ):
            name = self.pair_names[pair]
            total[name] = total.get(name, 0.0) + value
        return total


def doubles(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    """Returns numbers in float64, ``[size]``, or ``[rows, columns]``.

    Args:
        values (Sequence): The numbers.
    """
    return torch.tensor(values, dtype=torch.float64)


def group_of_channel(groups: Groups) -> Tensor:
    """Returns the number of the group of every channel, ``[channels]``.

    Args:
        groups (Groups): Sizes 2 and 3 make 0 0 1 1 1.
    """
    sizes = [g.size for g in groups.prunable]
    return torch.repeat_interleave(
        torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64)
    )


def counts_of(factors: Sequence[Factor], groups: Groups) -> Tensor:
    """Returns how often a channel of each group counts for each factor.

    Args:
        factors (Sequence[Factor]): The factors.
        groups (Groups): The prunable groups.

    Returns:
        Tensor: Float64, ``[factors, groups]``.
    """
    counts = torch.zeros(
        len(factors), len(groups.prunable), dtype=torch.float64
    )
    for row, factor in enumerate(factors):
        for g, count in factor.counts.items():
            counts[row, g] = count
    return counts


def _factors(
    terms: Sequence[Term], groups: Groups
) -> tuple[list[Factor], Tensor]:
    """Factors of all terms and their index per term, padded with ones."""
    factors = [Factor(1.0)]
    width = max([len(t.factors) for t in terms], default=1)
    index = torch.zeros(len(terms), max(width, 1), dtype=torch.int64)
    for row, term in enumerate(terms):
        for slot, ids in enumerate(term.factors):
            # Two factors in a table three wide: [k, k + 1, 0].
            index[row, slot] = len(factors)
            factors.append(factor_of(ids, groups))
    return factors, index


def factor_of(ids: Tensor, groups: Groups) -> Factor:
    """Returns how many indices of a dimension stay, by group.

    Args:
        ids (Tensor): Labels of the dimension, -1 for what stays; ``[size]``.
        groups (Groups): Which label belongs to which prunable group.
    """
    # Group of every index of the dimension, -1 for what stays: [size].
    owner = torch.where(ids >= 0, groups.node_group[ids.clamp_min(0)], -1)
    # Group 0 of 3 channels, flattened with 2 positions each, and 4 indices
    # that stay: offset 4, counts {0: 6 / 3 = 2}.
    found, number = owner.unique(return_counts=True)
    factor = Factor(float((owner < 0).sum()))
    sizes = [g.size for g in groups.prunable]
    for g, count in zip(found.tolist(), number.tolist(), strict=True):
        if g >= 0:
            # Each channel of the group stands at so many indices; a fraction
            # where the dimension holds a part of the group alone.
            factor.counts[g] = count / sizes[g]
    return factor


def _pair_buffers(terms: Sequence[Term], groups: Groups) -> dict[str, Tensor]:
    """All pairs of all terms, one after the other; each ``[pairs]``."""
    blank = torch.zeros(0, dtype=torch.int64)
    channels = sum(g.size for g in groups.prunable)
    ends = []
    for side in (0, 1):
        nodes = [t.pairs[side] for t in terms if t.pairs is not None]
        found = groups.channels_at(torch.cat([blank, *nodes]))
        # Entry `channels` of the padded mask is always one.
        ends.append(torch.where(found < 0, channels, found))
    # A channel paired with itself counts once: m, not m * m, whose gradient
    # would be twice the cost of the channel.
    ends[1] = torch.where(ends[0] == ends[1], channels, ends[1])
    sizes = torch.tensor(
        [len(t.pairs[0]) for t in terms if t.pairs is not None],
        dtype=torch.int64,
    )
    # Term of every pair, [pairs]: terms of 2 and 3 pairs -> 0 0 1 1 1.
    pair = torch.repeat_interleave(torch.arange(len(terms)), sizes)
    return {
        'first': ends[0],
        'second': ends[1],
        'pair': pair,
        'pair_constant': doubles([t.constant for t in terms])[pair],
    }
