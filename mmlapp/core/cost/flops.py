# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Analytic multiply-adds as a function of the channel masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..groups import Groups
from ..trace import FlopsTerm
from .base import Cost


@dataclass(frozen=True)
class PairTerm:
    """Multiply-adds of a layer that joins single pairs of channels.

    Args:
        name (str): Name of the layer.
        constant (int): Multiply-adds of one pair.
        first (Tensor): Global channel of each pair, -1 for always kept.
        second (Tensor): The other one, same shape.
    """

    name: str
    constant: int
    first: Tensor
    second: Tensor


@dataclass
class Factor:
    """A channel count: a constant plus kept channels times how often."""

    offset: float
    counts: dict[int, float] = field(default_factory=dict)


class FlopsTable(Cost):
    r"""Multiply-adds of every layer, multilinear in the kept channels.

    .. math:: F(m) = \sum_l c_l \prod_j (o_{lj} + \sum_g n_{ljg} K_g)
              + \sum_p c_p m_{a(p)} m_{b(p)}, \quad K_g = \sum_{i \in g} m_i

    One fused multiply-add is one FLOP. Differentiable in ``m``.

    Args:
        terms (Sequence[FlopsTerm]): Calls of a trace.
        groups (Groups): Which node belongs to which prunable group.
        dense (float): Multiply-adds of the user's own network.
        pairs (Sequence[PairTerm]): Pairwise layers. Defaults to none.
    """

    constant: Tensor
    offset: Tensor
    counts: Tensor
    index: Tensor
    group: Tensor
    first: Tensor
    second: Tensor
    pair: Tensor
    pair_constant: Tensor

    def __init__(
        self,
        terms: Sequence[FlopsTerm],
        groups: Groups,
        dense: float,
        pairs: Sequence[PairTerm] = (),
    ) -> None:
        super().__init__()
        self.dense = dense
        sizes = [g.size for g in groups.prunable]
        self.names = [t.name for t in terms]
        self.pair_names = [p.name for p in pairs]
        factors, index = _factors(terms, groups)
        counts = torch.zeros(len(factors), len(sizes), dtype=torch.float64)
        for row, factor in enumerate(factors):
            for g, count in factor.counts.items():
                counts[row, g] = count
        buffers = {
            'constant': _doubles([t.constant for t in terms]),
            'offset': _doubles([f.offset for f in factors]),
            'counts': counts,
            'index': index,
            'group': torch.repeat_interleave(
                torch.arange(len(sizes)),
                torch.tensor(sizes, dtype=torch.int64),
            ),
            **_pair_buffers(pairs, sum(sizes)),
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
        """Returns the multiply-adds term by term, plain and pairwise."""
        mask = mask.double()
        kept = mask.new_zeros(self.counts.shape[1]).index_add(
            0, self.group, mask
        )
        factors = self.offset + self.counts @ kept
        terms = self.constant * factors[self.index].prod(dim=1)
        padded = torch.cat([mask, mask.new_ones(1)])
        pairs = padded[self.first] * padded[self.second] * self.pair_constant
        return terms, pairs

    def by_layer(self, mask: Tensor) -> dict[str, float]:
        """Returns the multiply-adds of every layer by name."""
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


def _doubles(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _factors(
    terms: Sequence[FlopsTerm], groups: Groups
) -> tuple[list[Factor], Tensor]:
    """Factors of all terms and their index per term, padded with ones."""
    factors = [Factor(1.0)]
    width = max([len(t.factors) for t in terms], default=1)
    index = torch.zeros(len(terms), max(width, 1), dtype=torch.int64)
    for row, term in enumerate(terms):
        for slot, ids in enumerate(term.factors):
            index[row, slot] = len(factors)
            factors.append(_factor(ids, groups))
    return factors, index


def _factor(ids: Tensor, groups: Groups) -> Factor:
    owner = torch.where(ids >= 0, groups.node_group[ids.clamp_min(0)], -1)
    found, number = owner.unique(return_counts=True)
    factor = Factor(float((owner < 0).sum()))
    sizes = [g.size for g in groups.prunable]
    for g, count in zip(found.tolist(), number.tolist(), strict=True):
        if g >= 0:
            factor.counts[g] = count / sizes[g]
    return factor


def _pair_buffers(
    pairs: Sequence[PairTerm], channels: int
) -> dict[str, Tensor]:
    blank = torch.zeros(0, dtype=torch.int64)
    first = torch.cat([blank, *(p.first for p in pairs)])
    second = torch.cat([blank, *(p.second for p in pairs)])
    sizes = torch.tensor([len(p.first) for p in pairs], dtype=torch.int64)
    pair = torch.repeat_interleave(torch.arange(len(pairs)), sizes)
    constant = _doubles([p.constant for p in pairs])
    return {
        'first': torch.where(first < 0, channels, first),
        'second': torch.where(second < 0, channels, second),
        'pair': pair,
        'pair_constant': constant[pair],
    }
