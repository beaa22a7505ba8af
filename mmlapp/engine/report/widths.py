# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The section of a page about the widths of all layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from ..pages.document import NOTHING, row, table
from ..pages.small_charts import bar, strip
from ..sizes import HEADS
from . import views
from .run import Run
from .summary import width_text
from .views import LayerWidths

STYLE = """
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


def section(run: Run) -> Iterator[str]:
    """Yields the section of a page.

    Args:
        run (Run): What was read.
    """
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
    yield from _all_layers(run, found)
    heads = views.heads(run)
    if heads:
        yield '<p>Groups that lose whole heads of attention.</p>'
        yield _layer_rows(run, heads, heads, HEADS)
    parts = views.parts(run)
    if parts:
        unit = str(run.head['unit'])
        yield f'<p>Groups that lose {escape(unit)} and no outputs.</p>'
        yield _layer_rows(run, parts, parts, unit)


def _all_layers(run: Run, found: Sequence[LayerWidths]) -> Iterator[str]:
    """Those that were cut; folded away, the others and the plain numbers."""
    # over: pairs of an iteration and the share of the outputs that lived then.
    # Whatever was cut at any time counts as cut, even if it came back.
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


def _layer_rows(
    run: Run,
    shown: Sequence[LayerWidths],
    all_layers: Sequence[LayerWidths],
    what: str,
) -> str:
    # One scale for those that are shown and those that are folded away.
    widest = max((la.outputs[0] for la in all_layers), default=1) or 1
    items = ''.join(_layer_item(run, la, widest, what) for la in shown)
    head = (
        '<li class="head" aria-hidden="true"><span class="name">layer</span>'
        '<span>share over the run</span><span>left of dense</span>'
        f'<span class="width">{escape(what)}</span></li>'
    )
    return f'<ul class="layers">{head}{items}</ul>'


def _layer_item(run: Run, layer: LayerWidths, widest: int, what: str) -> str:
    # Widths of the dense layer and now; both bars are drawn over the widest
    # layer of the table, so that lengths of different rows can be compared.
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
