# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Costs that are known at a grid of widths and interpolated between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ..groups import Groups
from .base import Cost
from .multilinear import Factor, counts_of, doubles, group_of_channel


@dataclass(frozen=True)
class GridTerm:
    """What a layer costs at some widths.

    Args:
        name (str): Name of the layer.
        factors (tuple[Factor, Factor]): How its two widths follow from kept
            channels.
        axes (tuple[Tensor, Tensor]): Widths that are known, ascending and
            in float64: ``[rows]`` and ``[columns]``.
        values (Tensor): What it costs there, float64, ``[rows, columns]``.
        rest (Sequence[Factor]): What is left of further dimensions, each 1
            with all channels; all of it is proportional to them. Defaults to
            none.
    """

    name: str
    factors: tuple[Factor, Factor]
    axes: tuple[Tensor, Tensor]
    values: Tensor
    rest: Sequence[Factor] = ()


def isotonic(values: Tensor) -> Tensor:
    """Returns the nearest grid that falls along neither axis.

    Nearest in the largest change of a value: the mean of the least growing
    grid above and the greatest growing one below.

    Args:
        values (Tensor): ``[rows, columns]``.

    Examples:
        >>> isotonic(torch.tensor([[1.0, 4.0, 2.0, 5.0]]))
        tensor([[1., 3., 3., 5.]])
    """
    above = values.cummax(0).values.cummax(1).values
    turned = values.flip(0, 1)
    below = turned.cummin(0).values.cummin(1).values.flip(0, 1)
    return (above + below) / 2


class GridCost(Cost):
    r"""A sum over layers, each bilinear between the widths that are known.

    What else shrinks of a layer, such as the batch of a product in which heads
    lie, multiplies it.

    Budgets are searched as if a cost never falls when a channel comes back,
    so that values on the grid are made to grow (:func:`isotonic`). Below the
    least known width a layer costs what it costs there.

    Args:
        terms (Sequence[GridTerm]): Of the network and its branches.
        groups (Groups): Which channel belongs to which prunable group.
        dense (float): Of the user's own network.
    """

    group: Tensor
    offset: Tensor
    counts: Tensor
    axes: Tensor
    last: Tensor
    values: Tensor
    rest_offset: Tensor
    rest_counts: Tensor

    def __init__(
        self, terms: Sequence[GridTerm], groups: Groups, dense: float
    ) -> None:
        super().__init__()
        self.dense = dense
        self.names = [term.name for term in terms]
        flat = [factor for term in terms for factor in term.factors]
        count, number = len(terms), len(groups.prunable)
        # A width that stays is known alone: zero makes a cell of it.
        axes = [_at_least_two(a) for term in terms for a in term.axes]
        points = max(map(len, axes), default=2)
        buffers = {
            'group': group_of_channel(groups),
            'offset': doubles([f.offset for f in flat]).view(count, 2),
            'counts': counts_of(flat, groups).view(count, 2, number),
            'axes': _table(axes, points).view(count, 2, points),
            # Where the last cell begins, [terms, 2].
            'last': torch.tensor(
                [len(a) - 2 for a in axes], dtype=torch.int64
            ).view(count, 2),
            'values': _grids([term.values for term in terms], points),
            **_rest(terms, groups),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, gate: Tensor) -> Tensor:
        """Returns the total."""
        return self.by_term(gate).sum()

    def by_term(self, gate: Tensor) -> Tensor:
        """Returns the cost term by term, ``[terms]``.

        Args:
            gate (Tensor): Kept (1) or removed (0) channels, global order,
                ``[channels]``.
        """
        # [channels] -> [groups] -> widths of every term, [terms, 2].
        kept = gate.new_zeros(
            self.counts.shape[-1], dtype=torch.float64
        ).index_add(0, self.group, gate.double())
        widths = self.offset + self.counts @ kept
        # The cell: its lower corner is the last known width that is no more.
        reached = (self.axes <= widths.detach()[..., None]).sum(-1) - 1
        cell = torch.minimum(reached.clamp_min(0), self.last)
        low, high = (
            self.axes.gather(2, (cell + step)[..., None])[..., 0]
            for step in (0, 1)
        )
        # Share of the way through the cell, [terms, 2]; at both ends of it
        # the gradient is that of the cell.
        share = ((widths - low) / (high - low)).clamp(0, 1)
        total = _bilinear(self.values, cell, share)
        # [most further dimensions, terms]: not prod(), whose gradient asks a
        # GPU whether one is zero.
        rest = self.rest_offset + self.rest_counts @ kept
        return reduce(torch.mul, rest.unbind(), total)

    def by_layer(self, gate: Tensor) -> dict[str, float]:
        """Returns the cost of every layer by name."""
        total = dict.fromkeys(self.names, 0.0)
        costs = self.by_term(gate).tolist()
        for name, value in zip(self.names, costs, strict=True):
            total[name] += value
        return total


def _bilinear(values: Tensor, cell: Tensor, share: Tensor) -> Tensor:
    """Weighted mean of the four corners of one cell in each grid.

    Args:
        values (Tensor): Of the grids, ``[terms, points, points]``.
        cell (Tensor): Row and column of the lower corner, ``[terms, 2]``.
        share (Tensor): How far through the cell, in [0, 1], ``[terms, 2]``.

    Returns:
        Tensor: ``[terms]``.
    """
    row, column = cell.unbind(1)
    down, right = share.unbind(1)
    term = torch.arange(len(cell), device=cell.device)
    total = torch.zeros_like(down)
    for i, by_row in enumerate((1 - down, down)):
        for j, by_column in enumerate((1 - right, right)):
            corner = values[term, row + i, column + j]
            total = total + by_row * by_column * corner
    return total


def _at_least_two(axis: Tensor) -> Tensor:
    return axis if len(axis) > 1 else torch.cat([0 * axis, axis])


def _rest(terms: Sequence[GridTerm], groups: Groups) -> dict[str, Tensor]:
    """Shares of further dimensions, padded with ones, by their number."""
    most = max([len(term.rest) for term in terms], default=0)
    # Of every term as many, [terms * most], then the number first.
    one = Factor(1.0)
    flat = [
        factor
        for term in terms
        for factor in [*term.rest, *[one] * (most - len(term.rest))]
    ]
    offset = doubles([factor.offset for factor in flat])
    counts = counts_of(flat, groups)
    size = len(terms), most
    return {
        'rest_offset': offset.view(size).T,
        'rest_counts': counts.view(*size, len(groups.prunable)).movedim(0, 1),
    }


def _table(axes: Sequence[Tensor], points: int) -> Tensor:
    """Axes of several lengths as one tensor, ``[axes, points]``."""
    # No width reaches what is behind the end of an axis.
    table = torch.full((len(axes), points), math.inf, dtype=torch.float64)
    for row, axis in zip(table, axes, strict=True):
        row[: len(axis)] = axis
    return table


def _grids(grids: Sequence[Tensor], points: int) -> Tensor:
    """Grids of several sizes as one tensor, ``[grids, points, points]``."""
    table = torch.zeros(len(grids), points, points, dtype=torch.float64)
    for row, grid in zip(table, grids, strict=True):
        rows, columns = (max(size, 2) for size in grid.shape)
        # A single line is there twice: it costs the same anywhere.
        row[:rows, :columns] = isotonic(grid)
    return table
