# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a latency table says, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from mmlapp.core.cost.latency_table import LatencyTable
from mmlapp.core.cost.whole_networks import shares

from .timing import NOISY, Timing

NETWORK_COLUMNS = 'layers', 'elements', 'predicted', 'measured', 'ms', 'p90'


def milliseconds(seconds: float) -> str:
    """Returns a time with three digits.

    Args:
        seconds (float): The time.

    Examples:
        >>> milliseconds(0.01234), milliseconds(0.1)
        ('12.3', '100')
    """
    return f'{1e3 * seconds:.3g}'


def layers_table(table: LatencyTable) -> Table:
    """Returns all kinds of layers and what they take with all channels.

    Args:
        table (LatencyTable): What was measured.
    """
    shown = Table()
    shown.add_column('layer', overflow='fold')
    for name in ('calls', 'weight', 'input', 'widths', 'ms', 'p90'):
        shown.add_column(name, justify='right', no_wrap=True)
    for layer in table.layers:
        shown.add_row(
            layer.names[0],
            str(len(layer.names)),
            'x'.join(map(str, layer.weight)),
            'x'.join(map(str, layer.inputs)),
            ' x '.join(str(len(axis)) for axis in layer.axes.values()) or '1',
            # The last point of a grid is the full width of all axes.
            milliseconds(layer.median[-1]),
            milliseconds(layer.p90[-1]),
        )
    return shown


def networks_table(table: LatencyTable) -> Table:
    """Returns whole networks: measured, and predicted by their parts.

    Args:
        table (LatencyTable): What was measured.
    """
    by_layers, by_elements, constant = shares(table.networks)
    shown = Table()
    for name in NETWORK_COLUMNS:
        shown.add_column(name, justify='right', no_wrap=True)
    dense = table.networks[0].median
    for network in table.networks:
        # What the cost `latency` starts from, before it goes through the
        # measured networks: s layers + e elements + c.
        predicted = by_layers * network.layers + constant
        predicted += by_elements * network.elements
        shown.add_row(
            f'{network.layers:.1%}',
            f'{network.elements:.1%}',
            f'{predicted:.1%}',
            f'{network.median / dense:.1%}',
            milliseconds(network.median),
            milliseconds(network.p90),
        )
    return shown


def remarks(table: LatencyTable) -> Iterator[str]:
    """Yields what to know of a table.

    Args:
        table (LatencyTable): What was measured.
    """
    by_layers, by_elements, constant = shares(table.networks)
    yield (
        f'time of the dense network: {by_layers:.1%} with its layers, '
        f'{by_elements:.1%} with the elements that they put out, '
        f'{constant:.1%} constant'
    )
    if not by_layers + by_elements:
        yield (
            'of no use: the narrow networks took as long as the dense one. '
            'Measure again on an idle machine, with larger images or a larger '
            'batch'
        )
    layers = [
        Timing(median, p90)
        for entry in table.layers
        for median, p90 in zip(entry.median, entry.p90, strict=True)
    ]
    networks = [Timing(n.median, n.p90) for n in table.networks]
    # Few networks decide on the scale of all: none may be noisy.
    for what, timings, share in (
        ('times of layers', layers, 0.1),
        ('whole networks', networks, 0.0),
    ):
        noisy = sum(timing.noisy for timing in timings)
        if noisy > share * len(timings):
            yield (
                f'too noisy: {noisy} of {len(timings)} {what} have a p90 of '
                f'more than {NOISY} times their median. Measure again, with '
                '--force, while nothing else runs'
            )
