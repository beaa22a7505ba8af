# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time of a forward, from a table of measured layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import PruningError
from .base import Cost, CostContext, register_cost
from .flops import HANDLES
from .latency_table import LatencyTable
from .multilinear import MultilinearCost, term_of
from .timed_calls import TimedCalls
from .whole_networks import between, knots, shares

# What no layer's time tells: norms, activations, sums, and what calls cost.
REST = 'everything else'


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

    Of grouped branches time is taken to be proportional to what is left, and
    so it is of further dimensions of any layer, such as the batch of a
    product in which heads lie.

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
        timed = TimedCalls(found, context.groups, said)
        self.grid = timed.grid([*own, *added])
        self.proportional = timed.proportional([*own, *added])
        # Last: that something is missing says more.
        timed.check_whole(own)
        self.elements = MultilinearCost(
            [
                term_of(call, math.prod(call.outputs), ('out',))
                for call in (*own, *added)
            ],
            context.groups,
            sum(math.prod(call.outputs) for call in own),
        )
        self.layers_dense = sum(map(timed.full_time, own))
        self.dense = found.networks[0].median
        self.shares = shares(found.networks)
        self.said = said
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

    def check_budget(self) -> None:
        """Refuses a table by which no width changes the time.

        Raises:
            PruningError: With the table, and what to do.
        """
        if not any(self.shares[:2]):
            raise PruningError(
                f'{self.said}: its narrow networks took as long as the dense '
                'one, so that no width changes the time. Measure again on an '
                'idle machine, with larger images or a larger batch'
            )

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
