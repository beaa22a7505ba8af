# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The section of a page about thresholds among scores."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ..pages.charts import number_text
from ..pages.document import row, table
from ..pages.small_charts import fan
from . import views
from .run import Run
from .summary import setting_text, width_text
from .views import GroupScores

STYLE = """
.fans{display:grid;gap:1rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,10.5rem),1fr))}
"""


def section(run: Run) -> Iterator[str]:
    """Yields the section of a page.

    Args:
        run (Run): What was read.
    """
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
            # others: by name of the quantity, a pair for each group, in the
            # order of `groups`.
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
        f'The method {setting_text(method)} has no thresholds that scores are '
        'compared with, and so there is no picture of them.'
    )


def _fan(group: GroupScores) -> str:
    # Quantiles of SHARES: the least first, the median fourth of seven.
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
    left = f'{width_text(group.channels)} {group.kind}'.rstrip()
    # scores: [records][quantiles]; threshold: [records].
    picture = fan(group.iters, group.scores, group.threshold, label)
    return (
        f'<figure>{picture}<figcaption>{escape(group.name)}<br>'
        f'<span class="soft">{left}, {at}</span>'
        '</figcaption></figure>'
    )


def _first_last(pair: tuple[float, float]) -> str:
    first, last = (number_text(value) for value in pair)
    return f'{first} → {last}'
