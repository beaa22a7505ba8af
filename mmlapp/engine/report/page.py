# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A run as one page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from ..benchmark.report import COLUMNS
from ..pages import charts, drawing, small_charts
from ..pages.charts import Line, line_chart, number_text
from ..pages.document import (
    NOTHING,
    document,
    row,
    table,
    text_cell,
    warnings_list,
)
from ..pages.small_charts import bar, fan, strip
from . import views
from .run import Points, Run
from .views import CostPath, GroupScores, LayerWidths

STYLE = (
    drawing.STYLE
    + charts.STYLE
    + small_charts.STYLE
    + """
.half{display:grid;gap:0 1.5rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
.fans{display:grid;gap:1rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,10.5rem),1fr))}
.layers{list-style:none;padding:0;margin:1rem 0}
.layers li{display:grid;gap:0 1rem;align-items:center;max-width:none;
grid-template-columns:minmax(0,17rem) minmax(0,1fr) minmax(0,1fr) 7.5rem;
font-size:.85rem;padding:.12rem 0;border-bottom:1px solid var(--rule)}
.layers .name{overflow-wrap:anywhere}
.layers .width{text-align:right;font-variant-numeric:tabular-nums}
.layers .head{color:var(--soft)}
@media(max-width:44rem){.layers li{grid-template-columns:repeat(4,1fr)}
.layers .name{grid-column:1/4;grid-row:1}.layers .width{grid-row:1}
.layers svg,.layers .head span:not([class]){grid-column:span 2}}
"""
)
NAMES = {'flops': 'FLOPs'}
PHASES = {
    None: 'nothing was noted of pruning',
    'dense': 'its pruning phase had not begun',
    'pruning': 'within its pruning phase',
    'finished': 'pruned',
}


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


def status(run: Run) -> str:
    """Says in a sentence how far a run came.

    Args:
        run (Run): What was read.
    """
    text = PHASES[run.phase]
    if run.phase == 'pruning':
        state = run.states[-1]
        text += f', step {state["done"]} of {state["steps"]}'
    if run.end is not None:
        return f'Training ended at iteration {run.end:,}; {text}.'
    most = run.head.get('max_iters')
    of = f' of {most:,}' if most else ''
    told = 'it runs, or was stopped' if run.head else 'whether it ended is not'
    known = told if run.head else f'{told} noted'
    return f'Last record at iteration {run.last:,}{of}: {known}; {text}.'


def _top(run: Run) -> Iterator[str]:
    yield f'<h1>Run {escape(run.name)}</h1>'
    yield f'<p class="soft">{escape(status(run))}</p>'
    yield warnings_list(list(_warnings(run)))
    facts = list(_facts(run))
    if facts:
        rows = (row(name, [text_cell(value)]) for name, value in facts)
        yield table(['what', 'value'], rows)


def _warnings(run: Run) -> Iterator[str]:
    for name, points in {**run.training, **run.validation}.items():
        bad = sum(not math.isfinite(y) for _, y in points)
        if bad:
            yield f'{name} is not finite in {bad} of {len(points)} records'
    if run.broken:
        yield (
            f'{run.broken} lines of the logs could not be read, as where a '
            'process was killed while it wrote'
        )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    for name, value in run.head.get('settings', {}).items():
        yield name, _plain(value)
    if run.states:
        state = run.states[-1]
        for name, ratio in state['ratios'].items():
            target = state['targets'].get(name)
            asked = '' if target is None else f', target {target:.2%}'
            left = 'not finite' if ratio is None else f'{ratio:.2%} of dense'
            yield f'{_name(name)} left', left + asked
    found = views.channels(run)
    if found:
        dense, now = (sum(group[i] for group in found) for i in (1, 2))
        unit = run.head.get('unit', 'channels')
        yield f'{unit} of {len(found)} groups', width_text((dense, now))
    for name, points in run.validation.items():
        values = [y for _, y in points if math.isfinite(y)]
        if values:
            yield (
                name,
                f'{values[-1]:.5g} at last, highest {max(values):.5g}',
            )


def _plain(value: object) -> str:
    """A setting as a person would write it."""
    if isinstance(value, Mapping):
        rest = [f'{k}={_plain(v)}' for k, v in value.items() if k != 'type']
        head = str(value.get('type', ''))
        return f'{head} ({", ".join(rest)})' if rest else head
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ', '.join(map(_plain, value))
    return 'none' if value is None else str(value)


def _name(cost: str) -> str:
    return NAMES.get(cost, cost)


def width_text(widths: tuple[int, int]) -> str:
    """Widths, dense and now.

    Args:
        widths (tuple[int, int]): Both.

    Examples:
        >>> width_text((96, 33)), width_text((64, 64))
        ('96 → 33', '64')
    """
    dense, now = widths
    return f'{dense:,}' if dense == now else f'{dense:,} → {now:,}'


def _chart(run: Run, title: str, lines: Sequence[Line], **more: bool) -> str:
    """Over iterations, with the phase and where the run was resumed."""
    return line_chart(
        title,
        lines,
        'iteration',
        shade=views.phase(run),
        marks=[begin for _, begin in run.starts[1:]],
        **more,
    )


def _seen(points: Points) -> bool:
    return any(math.isfinite(y) for _, y in points)


def _loss(run: Run) -> Iterator[str]:
    yield '<h2>Loss</h2>'
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
    return _chart(run, f'{_name(path.name)} left', lines, percent=True)


def _accuracy(run: Run) -> Iterator[str]:
    yield '<h2>Accuracy</h2>'
    found = {n: p for n, p in run.validation.items() if _seen(p)}
    if not found:
        yield '<p>The run was not validated, or it was not logged.</p>'
        return
    over = 'epoch' if run.by_epoch else 'iteration'
    parts = [line_chart(n, [Line(n, p)], over) for n, p in found.items()]
    inner = ''.join(parts)
    yield f'<div class="half">{inner}</div>' if len(parts) > 1 else inner


def _widths(run: Run) -> Iterator[str]:
    yield '<h2>Widths of the layers</h2>'
    found = views.layers(run)
    if not run.states:
        yield '<p>All layers are whole: no phase was noted.</p>'
        return
    yield (
        '<p>Outputs of every layer: their share over the run, from its first '
        'record to its last; then how many are left of the dense ones, on '
        'one scale for all layers.</p>'
    )
    cut = [la for la in found if min(y for _, y in la.over) < 1]
    whole = [la for la in found if min(y for _, y in la.over) == 1]
    if cut:
        yield _layer_rows(run, cut, found, 'outputs')
    if whole:
        yield (
            f'<details><summary>Layers that kept all outputs: {len(whole)}'
            f'</summary>{_layer_rows(run, whole, found, "outputs")}</details>'
        )
    yield (
        '<details><summary>Inputs and outputs, dense and now</summary>'
        + table(['layer', 'inputs', 'outputs', 'left'], map(_layer_row, found))
        + '</details>'
    )
    parts = views.parts(run)
    if parts:
        unit = str(run.head['unit'])
        yield f'<p>Groups that lose {escape(unit)} and no outputs.</p>'
        yield _layer_rows(run, parts, parts, unit)


def _layer_rows(
    run: Run,
    shown: Sequence[LayerWidths],
    all_layers: Sequence[LayerWidths],
    what: str,
) -> str:
    widest = max((la.outputs[0] for la in all_layers), default=1) or 1
    items = ''.join(_layer_item(run, la, widest, what) for la in shown)
    head = (
        '<li class="head" aria-hidden="true"><span class="name">layer</span>'
        '<span>share over the run</span><span>left of dense</span>'
        f'<span class="width">{escape(what)}</span></li>'
    )
    return f'<ul class="layers">{head}{items}</ul>'


def _layer_item(run: Run, layer: LayerWidths, widest: int, what: str) -> str:
    dense, now = layer.outputs
    least = min(y for _, y in layer.over)
    over = (
        f'share of the {what} of {layer.name} over the run: '
        f'{layer.over[0][1]:.0%} at first, {layer.over[-1][1]:.0%} at last, '
        f'least {least:.0%}'
    )
    left = f'{now} of {dense} {what} of {layer.name} are left'
    return (
        f'<li><span class="name">{escape(layer.name)}</span>'
        f'{strip(layer.over, run.last, over)}'
        f'{bar(now / widest, dense / widest, left)}'
        f'<span class="width">{width_text(layer.outputs)}</span></li>'
    )


def _layer_row(layer: LayerWidths) -> str:
    inputs = NOTHING if layer.inputs is None else width_text(layer.inputs)
    cells = [inputs, width_text(layer.outputs), f'{layer.share:.1%}']
    return row(layer.name, cells)


def _scores(run: Run) -> Iterator[str]:
    yield '<h2>Thresholds and scores</h2>'
    found = views.thresholds(run)
    if not found:
        yield f'<p>{escape(_without_thresholds(run))}</p>'
    else:
        yield (
            '<p>One picture per group, over the iterations of the phase. '
            'Bands: the scores of its channels, all of them, the middle 80% '
            'and the middle 50%. Dashed: the threshold; what scores below it '
            f'goes.{_ranked(run)}</p>'
        )
        yield f'<div class="fans">{"".join(map(_fan, found))}</div>'
    others = views.others_shown(run)
    if others:
        groups = [name for name, _, _ in views.channels(run)]
        yield '<p>What the method shows of every group, first and last.</p>'
        yield table(
            ['group', *others],
            (
                row(name, (_first_last(pairs[i]) for pairs in others.values()))
                for i, name in enumerate(groups)
            ),
        )


def _ranked(run: Run) -> str:
    if run.head.get('settings', {}).get('normalisation') != 'rank':
        return ''
    return (
        ' Scores are ranks within their group here (normalisation rank), and '
        'so are spread evenly by definition.'
    )


def _without_thresholds(run: Run) -> str:
    method = run.head.get('settings', {}).get('method')
    if not run.head:
        return 'Nothing was noted of pruning, and so no thresholds.'
    if method is None:
        return 'Its network was narrow already: there were no thresholds.'
    if not run.states:
        return 'The phase had not begun: there are no thresholds yet.'
    return (
        f'The method {_plain(method)} has no thresholds that scores are '
        'compared with, and so there is no picture of them.'
    )


def _fan(group: GroupScores) -> str:
    last, scores = group.threshold[-1], group.scores[-1]
    at = (
        f'threshold {last:.3g} among scores of {scores[0]:.3g} to '
        f'{scores[-1]:.3g}'.replace('-', '&minus;')
    )
    label = (
        f'scores of {group.name}: median from {group.scores[0][3]:.3g} to '
        f'{group.scores[-1][3]:.3g}; threshold from '
        f'{group.threshold[0]:.3g} to {last:.3g}'
    )
    picture = fan(group.iters, group.scores, group.threshold, label)
    return (
        f'<figure>{picture}<figcaption>{escape(group.name)}<br>'
        f'<span class="soft">{width_text(group.channels)}, {at}</span>'
        '</figcaption></figure>'
    )


def _first_last(pair: tuple[float, float]) -> str:
    first, last = (number_text(value) for value in pair)
    return f'{first} → {last}'


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
    _widths,
    _scores,
    _frozen,
    _latency,
    _starts,
)
