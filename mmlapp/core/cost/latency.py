# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time of a forward, from a table of measured layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import PruningError
from ..groups import Groups
from ..trace import LayerCall
from .base import Cost, CostContext, register_cost
from .flops import HANDLES
from .grid import GridCost, GridTerm, isotonic
from .latency_table import (
    AXES,
    LatencyTable,
    TimedLayer,
    TimedNetwork,
    key_of,
    key_of_call,
)
from .multilinear import Factor, MultilinearCost, doubles, factor_of, term_of

# What no layer's time tells: norms, activations, sums, and what calls cost.
REST = 'everything else'
MEASURE = 'Measure it again with tools/latency_table.py'


@register_cost('latency')
class Latency(Cost):
    r"""Seconds of a forward on the device of a table.

    .. math:: T(m) = T_1\, g\left( s \frac{L(m)}{L(1)}
              + e \frac{E(m)}{E(1)} + c \right), \quad s + e + c = 1

    L is the sum of the times of convolutions and products, each
    interpolated between measured widths; E counts the elements that they put
    out, for norms, activations and sums take time in proportion to these; c
    does not depend on widths. The shares s, e, c are those with which the
    measured times of whole networks are predicted best (:func:`shares`), g
    goes through these times (:func:`knots`), and :math:`T_1` is the measured
    time of the dense network.

    Of layers of which more than inputs and outputs shrinks, and of grouped
    branches, time is taken to be proportional to what is left.

    Args:
        context (CostContext): Calls and groups.
        table (str, Path, Mapping or LatencyTable): What was measured, or its
            file.

    Raises:
        PruningError: If the table is damaged, or was measured on another
            model.

    Attributes:
        divisor (int): Widths between multiples of it are not measured.
    """

    parts: Tensor
    measured: Tensor

    def __init__(
        self,
        context: CostContext,
        table: str | Path | Mapping[str, Any] | LatencyTable,
    ) -> None:
        super().__init__()
        said = 'table'
        if isinstance(table, (str, Path)):
            said = f'table={str(table)!r}'
        found = read_table(table)
        self.divisor = found.divisor
        self.setting = found.setting
        own = [c for c in context.calls if c.op in HANDLES]
        added = [c for c in context.branch_calls if c.op in HANDLES]
        lookup = _Lookup(found, context.groups, said)
        self.grid = lookup.grid([*own, *added])
        self.proportional = lookup.proportional([*own, *added])
        self.elements = MultilinearCost(
            [
                term_of(call, math.prod(call.outputs), ('out',))
                for call in (*own, *added)
            ],
            context.groups,
            sum(math.prod(call.outputs) for call in own),
        )
        self.layers_dense = sum(map(lookup.full_time, own))
        self.dense = found.networks[0].median
        self.shares = shares(found.networks)
        for name, values in zip(
            ('parts', 'measured'), knots(found.networks), strict=True
        ):
            self.register_buffer(name, values, persistent=False)

    def forward(self, gate: Tensor) -> Tensor:
        """Returns the seconds."""
        # The gradient of the layers' part is that of the grid, of the rest
        # the share of elements that a channel is.
        by_layers, by_elements, constant = self.shares
        parts = (
            by_layers * self.layers_ratio(gate)
            + by_elements * self.elements.ratio(gate)
            + constant
        )
        return self.dense * between(parts, self.parts, self.measured)

    def layers_ratio(self, gate: Tensor) -> Tensor:
        """Returns the layers' time over that of the dense network's.

        Args:
            gate (Tensor): As in :meth:`forward`.
        """
        total: Tensor = self.grid(gate) + self.proportional(gate)
        return total / self.layers_dense

    def by_layer(self, gate: Tensor) -> dict[str, float]:
        """Returns the seconds of every layer, and of everything else."""
        # What g makes of the sum of all parts it makes of each of them.
        by_layers, by_elements, constant = self.shares
        layers = by_layers * float(self.layers_ratio(gate))
        parts = layers + by_elements * float(self.elements.ratio(gate))
        corrected = float(self(gate)) / (parts + constant)
        scale = by_layers * corrected / self.layers_dense
        found = {
            name: scale * value
            for part in (self.grid, self.proportional)
            for name, value in part.by_layer(gate).items()
        }
        return {**found, REST: float(self(gate)) - sum(found.values())}


def read_table(
    table: str | Path | Mapping[str, Any] | LatencyTable,
) -> LatencyTable:
    """Returns a table in any of the forms that a config may hold.

    Args:
        table (str, Path, Mapping or LatencyTable): The table, as a
            dictionary, or the path of its file.

    Raises:
        PruningError: If it is none of these, or damaged.
    """
    if isinstance(table, LatencyTable):
        return table
    if isinstance(table, Mapping):
        return LatencyTable.from_dict(table)
    if not isinstance(table, (str, Path)):
        raise PruningError(
            f'table={table!r}: expected the path of a file that '
            'tools/latency_table.py wrote'
        )
    return LatencyTable.load(table)


def shares(networks: Sequence[TimedNetwork]) -> tuple[float, float, float]:
    r"""Fits whole networks by their layers, their elements and a constant.

    The least squares of :math:`s\,l_k + e\,e_k + c - t_k / t_1` over all
    networks k with s, e, c from 0 on and a sum of 1, so that the dense
    network comes out exactly.

    Args:
        networks (Sequence[TimedNetwork]): The dense one first. Alone it
            gives all to the layers.

    Returns:
        tuple[float, float, float]: s, e and c.

    Examples:
        >>> one = TimedNetwork(layers=1, elements=1, median=2, p90=2)
        >>> half = TimedNetwork(layers=0.5, elements=0.7, median=1.5, p90=2)
        >>> shares([one, half])
        (0.5, 0.0, 0.5)
    """
    # [networks, 3] and [networks].
    parts = doubles([[n.layers, n.elements, 1.0] for n in networks])
    times = doubles([n.median / networks[0].median for n in networks])
    best, least = doubles([1.0, 0.0, 0.0]), math.inf
    # The optimum is the one without limits on some face of the triangle.
    for used in _faces():
        found = _fit(parts, times, used)
        error = float((parts @ found - times).square().sum())
        # What is no better by more than rounding has more parts.
        if bool((found >= 0).all()) and error < least - 1e-12:
            best, least = found, error
    first, second, third = best.tolist()
    return first, second, third


def knots(networks: Sequence[TimedNetwork]) -> tuple[Tensor, Tensor]:
    """Returns where g is known: what parts tell, and what is measured.

    Networks are the faster the better they fit into caches, which no sum of
    parts tells. Branches make one larger than the dense one: its time grows
    in proportion, whatever the last measured piece was like.

    Args:
        networks (Sequence[TimedNetwork]): The dense one first.

    Returns:
        tuple[Tensor, Tensor]: Both as fractions of the dense network,
        ascending from 0 over 1 to 2; ``[networks + 2]`` at most.
    """
    share = doubles(shares(networks))
    first = networks[0].median
    found = {0.0: 0.0}
    for network in networks:
        row = doubles([network.layers, network.elements, 1.0])
        # Rounded, so that equal networks are one.
        place = round(float(row @ share), 9)
        found[place] = min(network.median / first, 1.0)
    # One that is as large as the dense one says no more than that.
    found = {k: v for k, v in found.items() if k < 1} | {1.0: 1.0, 2.0: 2.0}
    places = doubles(sorted(found))
    times = doubles([found[place] for place in sorted(found)])
    return places, isotonic(times[None])[0]


def between(value: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Interpolates in a line, and beyond its end as the last piece goes on.

    Args:
        value (Tensor): Where; scalar.
        places (Tensor): Where it is known, ascending; ``[points]``.
        values (Tensor): What is known there, likewise.

    Examples:
        >>> places, values = (
        ...     torch.tensor([0.0, 2, 4]),
        ...     torch.tensor([0.0, 1, 5]),
        ... )
        >>> between(torch.tensor(3.0), places, values)
        tensor(3.)
    """
    # The last piece that begins before it: where two meet, the one from which
    # channels are removed.
    piece = (places < value.detach()).sum() - 1
    piece = piece.clamp(0, len(places) - 2)
    low, high = places[piece], places[piece + 1]
    share = (value - low) / (high - low)
    return values[piece] * (1 - share) + values[piece + 1] * share


def _faces() -> Iterator[tuple[int, ...]]:
    """Corners, edges and the inside: (0,) (1,) (2,) (0, 1) ... (0, 1, 2)."""
    # Ties go to what comes first. The constant before elements: networks
    # that do not tell them apart promise less.
    for count in (1, 2, 3):
        yield from itertools.combinations((0, 2, 1), count)


def _fit(parts: Tensor, times: Tensor, used: Sequence[int]) -> Tensor:
    """Least squares with a sum of 1 and nothing but some parts, ``[3]``."""
    *free, last = used
    found = torch.zeros(3, dtype=torch.float64)
    if free:
        # The last share is 1 minus the others.
        matrix = parts[:, free] - parts[:, [last]]
        goal = (times - parts[:, last])[:, None]
        solved = torch.linalg.lstsq(matrix, goal, driver='gelsd').solution
        found[free] = solved[:, 0]
    found[last] = 1 - found.sum()
    return found


class _Lookup:
    """The entries of a table that belong to calls."""

    def __init__(self, table: LatencyTable, groups: Groups, said: str) -> None:
        self.groups, self.said = groups, said
        self.entries = {
            (name, key_of(e.op, e.inputs, e.weight, e.geometry)): e
            for e in table.layers
            for name in e.names
        }

    def grid(self, calls: Sequence[LayerCall]) -> GridCost:
        """What of the calls is interpolated."""
        terms = [self._term(call) for call in calls if on_grid(call)]
        return GridCost(terms, self.groups, 1.0)

    def proportional(self, calls: Sequence[LayerCall]) -> MultilinearCost:
        """What of the calls is measured with all channels alone."""
        others = [call for call in calls if not on_grid(call)]
        for call in others:
            if 'stripes' in call.dims:
                raise PruningError(
                    f"cost='latency': {call.name} loses stripes, with which "
                    'its time does not fall as with channels. Leave latency '
                    "out of costs, or take unit='channels'"
                )
        terms = [term_of(call, self.full_time(call)) for call in others]
        return MultilinearCost(terms, self.groups, 1.0)

    def full_time(self, call: LayerCall) -> float:
        """Seconds of a call with all channels, as the grid has it."""
        return float(_times(self._entry(call))[-1, -1])

    def _entry(self, call: LayerCall) -> TimedLayer:
        found = self.entries.get((call.name, key_of_call(call)))
        if found is None:
            raise PruningError(
                f"cost='latency': {self.said} was measured on another model "
                f'or at another input shape: it has no {call.name} with '
                f'weight {list(call.weight)} and input '
                f'{list(call.inputs[1:])}. {MEASURE}'
            )
        return found

    def _term(self, call: LayerCall) -> GridTerm:
        entry = self._entry(call)
        factors = {
            axis: factor_of(call.dims[axis], self.groups)
            for axis in AXES
            if axis in call.dims
        }
        for axis, factor in factors.items():
            if factor.counts and axis not in entry.axes:
                raise PruningError(
                    f"cost='latency': {self.said} has {call.name} with all "
                    f'of dimension {axis!r} alone, which may shrink in this '
                    f'scope. {MEASURE}'
                )
        widths = _widths(entry)
        # What does not shrink for this unit is as wide as the table knows it.
        by_rows, by_columns = (
            factors.get(axis, Factor(float(known[-1])))
            if axis in entry.axes
            else Factor(1.0)
            for axis, known in zip(AXES, widths, strict=True)
        )
        rows, columns = map(doubles, widths)
        return GridTerm(
            call.name,
            (by_rows, by_columns),
            (rows, columns),
            _times(entry),
        )


def _widths(entry: TimedLayer) -> list[tuple[int, ...]]:
    """Of both axes; a single one, whatever it is, where nothing shrinks."""
    return [entry.axes.get(axis, (1,)) for axis in AXES]


def _times(entry: TimedLayer) -> Tensor:
    """Growing times of an entry, ``[in, out]``."""
    rows, columns = map(len, _widths(entry))
    return isotonic(doubles(entry.median).view(rows, columns))


def on_grid(call: LayerCall) -> bool:
    """Whether a call is measured at a grid of widths.

    Args:
        call (LayerCall): The call.
    """
    return call.pairs is None and set(call.dims) <= set(AXES)


def axes_of(call: LayerCall, groups: Groups) -> list[str]:
    """Returns the dimensions of a call at whose widths it is measured.

    Args:
        call (LayerCall): The call.
        groups (Groups): Which channel belongs to which prunable group.
    """
    if not on_grid(call):
        return []
    return [
        axis
        for axis in AXES
        if axis in call.dims and factor_of(call.dims[axis], groups).counts
    ]
