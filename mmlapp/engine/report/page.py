# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A run as one page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from ..benchmark.report import COLUMNS
from ..pages import charts, drawing, small_charts
from ..pages.charts import Line, line_chart
from ..pages.document import document, row, table, text_cell, warnings_list
from ..sizes import cost_name
from . import scores, views, widths
from .run import Points, Run
from .summary import facts, status, warnings_of
from .views import CostPath

STYLE = (
    drawing.STYLE
    + charts.STYLE
    + small_charts.STYLE
    + widths.STYLE
    + scores.STYLE
    + """
.half{display:grid;gap:0 1.5rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
"""
)


def page_of(run: Run) -> str:
    """Returns the page of a run.

    Args:
        run (Run): What was read.
    """
    return document(
        f'Run {run.name}',
        (part for section in SECTIONS for part in section(run)),
        STYLE,
    )


def _top(run: Run) -> Iterator[str]:
    yield f'<h1>Run {escape(run.name)}</h1>'
    yield f'<p class="soft">{escape(status(run))}</p>'
    # Before the numbers, which a warning may put in doubt.
    yield warnings_list(list(warnings_of(run)))
    known = list(facts(run))
    if known:
        rows = (row(name, [text_cell(value)]) for name, value in known)
        yield table(['what', 'value'], rows)


def _chart(run: Run, title: str, lines: Sequence[Line], **more: bool) -> str:
    """Over iterations, with the phase and where the run was resumed."""
    return line_chart(
        title,
        lines,
        'iteration',
        shade=views.phase(run),
        # The first start is where the axis begins.
        marks=[begin for _, begin in run.starts[1:]],
        **more,
    )


def _seen(points: Points) -> bool:
    return any(math.isfinite(y) for _, y in points)


def _loss(run: Run) -> Iterator[str]:
    yield '<h2>Loss</h2>'
    # Of what is NaN throughout there is no axis.
    found = {n: p for n, p in views.losses(run).items() if _seen(p)}
    if not found:
        yield '<p>No loss was logged: there is no vis_data/scalars.json.</p>'
        return
    yield _explained(run)
    (first, points), *rest = found.items()
    yield _chart(run, first, [Line(first, points)])
    if rest:
        parts = ''.join(_chart(run, n, [Line(n, p)]) for n, p in rest)
        yield f'<div class="half">{parts}</div>'


def _explained(run: Run) -> str:
    shaded = 'The pruning phase is shaded. ' if views.phase(run) else ''
    times = len(run.starts) - 1
    marked = 'Dashed upright lines: here the run was resumed. '
    return (
        f'<p>{shaded}{marked if times else ""}Where there are many records, '
        'neighbours are averaged.</p>'
    )


def _cost(run: Run) -> Iterator[str]:
    yield '<h2>Cost</h2>'
    paths = views.costs(run)
    if not paths:
        yield '<p>It is that of the dense network: no phase was noted.</p>'
        return
    yield '<p>Share of the dense network, and what was asked for.</p>'
    parts = ''.join(_cost_chart(run, path) for path in paths)
    yield f'<div class="half">{parts}</div>' if len(paths) > 1 else parts


def _cost_chart(run: Run, path: CostPath) -> str:
    lines = [Line('left', path.ratio), Line('target', path.target)]
    return _chart(run, f'{cost_name(path.name)} left', lines, percent=True)


def _accuracy(run: Run) -> Iterator[str]:
    yield '<h2>Accuracy</h2>'
    found = {n: p for n, p in run.validation.items() if _seen(p)}
    if not found:
        yield '<p>The run was not validated, or it was not logged.</p>'
        return
    # Validation may count epochs where training counts iterations.
    over = 'epoch' if run.by_epoch else 'iteration'
    parts = [line_chart(n, [Line(n, p)], over) for n, p in found.items()]
    inner = ''.join(parts)
    yield f'<div class="half">{inner}</div>' if len(parts) > 1 else inner


def _frozen(run: Run) -> Iterator[str]:
    yield '<h2>What was left alone, and why</h2>'
    found = views.frozen(run)
    if found is None:
        yield '<p>That was not noted.</p>'
    elif not found:
        yield '<p>Every channel could be pruned.</p>'
    else:
        yield table(
            ['layer', 'channels', 'reason'],
            (
                row(f.layer, [f'{f.channels:,}', text_cell(f.reason)])
                for f in found
            ),
        )


def _latency(run: Run) -> Iterator[str]:
    yield '<h2>Latency</h2>'
    if not run.benchmarks:
        yield (
            '<p>Not measured: <code>tools/benchmark.py --json</code> has '
            'written nothing into this folder.</p>'
        )
    for found in run.benchmarks:
        told = ''.join(
            f'<li>{escape(text)}</li>'
            for text in (*found.settings, *found.notes)
        )
        yield f'<p><code>{escape(found.file)}</code></p>'
        yield table(
            ['backend, network', *COLUMNS],
            (row(name, map(escape, cells)) for name, cells in found.rows),
        )
        yield f'<ul class="soft">{told}</ul>'


def _starts(run: Run) -> Iterator[str]:
    yield '<h2>Starts</h2>'
    yield table(
        ['started', 'after iteration'],
        (row(name, [f'{begin:,}']) for name, begin in run.starts),
    )


SECTIONS = (
    _top,
    _loss,
    _cost,
    _accuracy,
    widths.section,
    scores.section,
    _frozen,
    _latency,
    _starts,
)
