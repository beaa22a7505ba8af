# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which entries of a latency table belong to the calls of a network."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from ..errors import PruningError
from ..groups import Groups
from ..trace import LayerCall
from .grid import GridCost, GridTerm, isotonic
from .latency_table import (
    AXES,
    LatencyTable,
    TimedLayer,
    key_of,
    key_of_call,
)
from .multilinear import Factor, MultilinearCost, doubles, factor_of, term_of

MEASURE = 'Measure it again with tools/latency_table.py'
# What a branch is called in the layer beside which it lies.
BYPASS = 'bypass'


class TimedCalls:
    """The entries of a table that belong to calls.

    Args:
        table (LatencyTable): What was measured.
        groups (Groups): Which channel belongs to which prunable group.
        said (str): How the user gave the table, for error texts.
    """

    def __init__(self, table: LatencyTable, groups: Groups, said: str) -> None:
        self.groups, self.said = groups, said
        self.entries = {
            (name, key_of(e.op, e.inputs, e.weight, e.geometry)): e
            for e in table.layers
            for name in e.names
        }

    def check_whole(self, calls: Sequence[LayerCall]) -> None:
        """Refuses a table of a larger network, such as a deeper one.

        Layers of a shallow network may all be in it, and still the times of
        whole networks are those of another one.

        Args:
            calls (Sequence[LayerCall]): All of the network, without branches.

        Raises:
            PruningError: With a layer that only the table has.
        """
        own = {(call.name, key_of_call(call)) for call in calls}
        names = {name for name, _ in own}
        for name, key in self.entries:
            if (name, key) in own or _is_branch(name, names):
                continue
            raise PruningError(
                f"cost='latency': {self.said} was measured on another model: "
                f'it has {name} with weight '
                f'{list(self.entries[name, key].weight)}, which this one does '
                f'not run so. {MEASURE}'
            )

    def grid(self, calls: Sequence[LayerCall]) -> GridCost:
        """Returns what of some calls is interpolated.

        Args:
            calls (Sequence[LayerCall]): Of a network and its branches.
        """
        terms = [self._term(call) for call in calls if on_grid(call)]
        return GridCost(terms, self.groups, 1.0)

    def proportional(self, calls: Sequence[LayerCall]) -> MultilinearCost:
        """Returns what of some grouped calls is measured as a whole alone.

        Args:
            calls (Sequence[LayerCall]): Of a network and its branches.

        Raises:
            PruningError: If one of them loses stripes.
        """
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
        """Returns the seconds of a call with all channels, as the grid does.

        Args:
            call (LayerCall): The call.

        Raises:
            PruningError: If the table does not have it.
        """
        # After it was made to grow: what the grid says of full widths, for the
        # dense network is to cost exactly one.
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
        # `in` counts the rows of a grid, `out` its columns.
        rows, columns = map(doubles, widths)
        return GridTerm(
            call.name,
            (by_rows, by_columns),
            (rows, columns),
            _times(entry),
            self._rest(call),
        )

    def _rest(self, call: LayerCall) -> list[Factor]:
        """Shares of the dimensions that have no widths in a table."""
        found = []
        for axis in call.dims.keys() - set(AXES):
            factor = factor_of(call.dims[axis], self.groups)
            if factor.counts:
                # As long as the dimension is with all channels.
                full = len(call.dims[axis])
                counts = {g: n / full for g, n in factor.counts.items()}
                found.append(Factor(factor.offset / full, counts))
        return found


def _is_branch(name: str, layers: Collection[str]) -> bool:
    """Whether a name is of a branch beside a layer, or of a part of it.

    A table that was measured with branches serves a run without them.
    """
    # conv1.bypass, conv1.bypass.0: children of conv1.
    parts = name.split('.')
    return any(
        part == BYPASS and '.'.join(parts[:i]) in layers
        for i, part in enumerate(parts)
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
        call (LayerCall): The call. What else shrinks of it multiplies its
            time.
    """
    return call.pairs is None and 'stripes' not in call.dims


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
