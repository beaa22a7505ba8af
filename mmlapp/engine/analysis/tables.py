# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from mmlapp.core import ChannelPlan

from ..deployment.figures import Figure
from ..models.inputs import shape_text
from ..sizes import left_text, size_text, sums_by_kind
from .layer_report import LayerReport
from .model_report import ModelReport

SCALES = (1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')


def short_number(value: float) -> str:
    """Returns a number with three digits and a letter for its size.

    Args:
        value (float): The number.

    Examples:
        >>> short_number(40_817_664), short_number(512)
        ('40.8M', '512')
    """
    for scale, letter in SCALES:
        if value >= 0.9995 * scale:  # what three digits round up to it
            return f'{value / scale:.3g}{letter}'
    return f'{value:.3g}'


def figures_table(figures: Sequence[Figure]) -> Table:
    """Returns the table of a deployment.

    Args:
        figures (Sequence[Figure]): Its rows.
    """
    table = Table()
    table.add_column('')
    for name in ('before', 'after', 'ratio', 'target'):
        table.add_column(name, justify='right')
    for figure in figures:
        target = '' if figure.target is None else f'{figure.target:.2%}'
        table.add_row(
            figure.name,
            short_number(figure.before),
            short_number(figure.after),
            f'{figure.ratio:.2%}',
            target,
        )
    return table


def widths_table(plan: ChannelPlan) -> Table:
    """Returns the widths of all groups of a pruned network.

    Args:
        plan (ChannelPlan): What was kept.
    """
    table = Table()
    table.add_column('group', overflow='fold')
    for name in ('channels', 'kept'):
        table.add_column(name, justify='right', no_wrap=True)
    for name, kept in plan.groups.items():
        left = left_text(kept.size, kept.count, plan.heads.get(name))
        table.add_row(name, left, f'{kept.count / kept.size:.1%}')
    return table


def groups_table(report: ModelReport) -> Table:
    """Returns the prunable groups by the numbers that the layers name.

    Args:
        report (ModelReport): The analysis of the model.
    """
    table = Table()
    table.add_column('group', justify='right', no_wrap=True)
    table.add_column('name', overflow='fold')
    for column in ('channels', 'at least'):
        table.add_column(column, justify='right', no_wrap=True)
    # Numbers from 1 on, as the table of layers names them.
    for number, (name, size) in enumerate(report.groups.items(), start=1):
        text = size_text(size, report.heads.get(name))
        table.add_row(str(number), name, text, str(report.floors[name]))
    return table


def layers_table(report: ModelReport) -> Table:
    """Returns the table of a model's layers.

    Args:
        report (ModelReport): The analysis of the model.
    """
    table = Table()
    table.add_column('layer', overflow='fold')
    table.add_column('channels', justify='right', no_wrap=True)
    for name in ('FLOPs', 'share'):
        table.add_column(name, justify='right', no_wrap=True)
    # All products of attention are one row, of as many groups as layers.
    table.add_column('group', justify='right', min_width=8)
    table.add_column('prunable', overflow='fold')
    for layer in report.layers:
        table.add_row(
            layer.name,
            _channels(layer),
            short_number(layer.flops),
            f'{layer.share:.2%}',
            ', '.join(map(str, layer.groups)),
            _prunable(layer),
        )
    return table


def _channels(layer: LayerReport) -> str:
    if layer.inputs is None or layer.outputs is None:
        return ''
    return f'{layer.inputs} → {layer.outputs}'


def _prunable(layer: LayerReport) -> str:
    if layer.reason is None:
        return 'yes' if layer.prunable else ''
    if layer.prunable:
        return f'{layer.prunable} of {layer.outputs}: {layer.reason}'
    # Of a group, and no output may go: parts of its filters may.
    return layer.reason if layer.groups else f'no: {layer.reason}'


def totals_table(report: ModelReport) -> Table:
    """Returns the sums of a model's analysis.

    Args:
        report (ModelReport): The analysis of the model.
    """
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for name, text in _totals(report):
        table.add_row(name, text)
    return table


def _totals(report: ModelReport) -> Iterator[tuple[str, str]]:
    shape = shape_text(report.settings['input_shape'])
    yield f'FLOPs at {shape}', _number(report.flops)
    # Told where the two differ, as both count what matrices multiply.
    if report.mmengine_flops not in (None, report.flops):
        yield 'FLOPs, counted by MMEngine', _number(report.mmengine_flops)
    yield 'prunable share of the FLOPs', f'{report.prunable_share:.2%}'
    yield 'reachable minimum', f'{report.minimum:.2%}'
    yield 'prunable groups', _groups(report)
    if report.bypass_flops:
        share = report.bypass_flops / report.flops
        said = f'{_number(report.bypass_flops)}, {share:.2%}'
        yield 'added by bypasses', said
    uncounted = sum(report.uncounted.values())
    yield 'not counted: norms, pooling ...', _number(uncounted)
    yield 'not counted: foreign operators', _calls(report.foreign)
    yield 'operators without a rule', _calls(report.unknown)
    for note in report.notes:
        yield 'not run', note
    for way, modules in _by_way(report).items():
        yield f'reached {way}', ', '.join(modules)


def _groups(report: ModelReport) -> str:
    sizes = {name: (size,) for name, size in report.groups.items()}
    sums = sums_by_kind(sizes, report.heads)
    parts = [f'{count} {kind}' for kind, (count,) in sums.items()]
    return f'{len(report.groups)}, with {" and ".join(parts)}'


def _by_way(report: ModelReport) -> dict[str, list[str]]:
    """Modules by how they were reached, for there may be many."""
    found: dict[str, list[str]] = {}
    for module, way in report.reach.items():
        found.setdefault(way, []).append(module)
    return found


def _number(value: int) -> str:
    return f'{value:,} ({short_number(value)})'


def _calls(counts: Mapping[str, int] | str) -> str:
    if isinstance(counts, str):
        return counts
    return ', '.join(f'{n} (x{c})' for n, c in counts.items()) or 'none'
