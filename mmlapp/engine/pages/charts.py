# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Lines over time, with their axes, a legend and their values.

Lines are stretched to the width of the page; what is written beside them is
text of the page, and keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .axis import Axis
from .document import row, table
from .drawing import (
    HEIGHT,
    WIDTH,
    Points,
    box,
    drawing,
    path,
    scaled,
    through,
)

# Points of a line at most, lines with dots, and rows of values below them.
MOST, DOTS, ROWS = 300, 40, 25
STYLE = """
.chart{margin:1rem 0;max-width:60rem}
.chart figcaption{font-size:.85rem}
.key{display:inline-block;margin-left:1rem;white-space:nowrap}
.key svg{width:1.6rem;height:.5rem;vertical-align:middle}
.frame{display:grid;grid-template-columns:3.2rem minmax(0,1fr);
padding:.6rem 1.2rem 0 0;font-size:.75rem;color:var(--soft)}
.frame svg{width:100%;height:14rem;overflow:visible}
.ys,.xs{position:relative}.xs{grid-column:2;height:2.6rem}
.ys span,.xs span{position:absolute;white-space:nowrap}
.ys span{right:.4rem;transform:translateY(-50%)}
.xs span{top:.2rem;transform:translateX(-50%)}
.xs .of{top:1.3rem;left:50%}
"""
# How the lines of a chart are told apart, by colour and by dashes.
KINDS = 'line', 'line against', 'line third'


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name (str): Plain text.
        points (Points): Pairs, ascending; NaN leaves a gap.
    """

    name: str
    points: Points

    @property
    def told(self) -> str:
        """The line in words, for who does not see it."""
        found = [y for _, y in self.points if math.isfinite(y)]
        if not found:
            return f'{self.name} has no finite value'
        return (
            f'{self.name} from {found[0]:.4g} to {found[-1]:.4g}, lowest '
            f'{min(found):.4g}, highest {max(found):.4g}'
        )


def thinned(points: Points, most: int = MOST) -> list[tuple[float, float]]:
    """Averages neighbouring points where there are too many.

    Args:
        points (Points): Pairs, ascending.
        most (int): How many are left at most. Defaults to 300.

    Examples:
        >>> thinned([(1, 4.0), (2, 2.0), (3, 1.0)], most=2)
        [(2, 3.0), (3, 1.0)]
    """
    # 7 points in at most 3: parts of 3, 3 and 1, each at its last place.
    size = math.ceil(len(points) / most) or 1
    return [
        (part[-1][0], sum(y for _, y in part) / len(part))
        for part in (points[i : i + size] for i in range(0, len(points), size))
    ]


def line_chart(
    title: str,
    lines: Sequence[Line],
    over: str,
    *,
    percent: bool = False,
    shade: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
) -> str:
    """Lines over iterations or epochs, with their values below.

    Args:
        title (str): Plain text.
        lines (Sequence[Line]): At most three, not all of them NaN.
        over (str): What they are drawn over, such as ``iteration``.
        percent (bool): Whether values are shares. Defaults to False.
        shade (tuple[float, float], optional): Part of the axis to set off.
            Defaults to None.
        marks (Sequence[float]): Where to draw a rule across. Defaults to
            none.
    """
    lines = [Line(line.name, thinned(line.points)) for line in lines]
    # Of the thinned ones: a peak that was averaged away needs no room.
    points = [point for line in lines for point in line.points]
    xs = Axis.over((x for x, _ in points), whole=True)
    ys = Axis.over(y for _, y in points)
    content = (
        _shaded(xs, shade) + _rules(xs, ys, marks) + _drawn(lines, xs, ys)
    )
    label = f'{title} over {over}: {"; ".join(line.told for line in lines)}'
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>'
        f'{_legend(lines)}</figcaption><div class="frame">'
        f'{_ticks(ys, percent)}{drawing(label, content)}'
        f'{_places(xs, over)}</div>{_values(lines, over, percent)}</figure>'
    )


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) == 1:  # the title says what it is
        return ''
    return ''.join(
        '<span class="key"><svg aria-hidden="true" viewBox="0 0 24 8">'
        f'<path class="{kind}" d="M0 4h24"/></svg> {escape(line.name)}</span>'
        for kind, line in zip(KINDS, lines, strict=False)
    )


def number_text(value: float, percent: bool = False) -> str:
    """A number as a person writes it, in HTML.

    Args:
        value (float): The number.
        percent (bool): Whether it is a share. Defaults to False.

    Examples:
        >>> number_text(0.403, percent=True), number_text(-12345)
        ('40.3%', '&minus;12,345')
    """
    if percent:
        text = f'{100 * value:.4g}%'
    else:
        whole = 1e5 <= abs(value) < 1e9
        text = f'{value:,.0f}' if whole else f'{value:,.5g}'
    return text.replace('-', '&minus;')


def _ticks(ys: Axis, percent: bool) -> str:
    texts = ''.join(
        # Up is down on a page.
        f'<span style="top:{100 * (1 - ys.share(tick)):.1f}%">'
        f'{number_text(tick, percent)}</span>'
        for tick in ys.ticks
    )
    return f'<div class="ys" aria-hidden="true">{texts}</div>'


def _places(xs: Axis, over: str) -> str:
    texts = ''.join(
        f'<span style="left:{100 * xs.share(tick):.1f}%">{tick:,.0f}</span>'
        for tick in xs.ticks
    )
    return (
        f'<div class="xs" aria-hidden="true">{texts}'
        f'<span class="of">{escape(over)}</span></div>'
    )


def _shaded(xs: Axis, shade: tuple[float, float] | None) -> str:
    if shade is None:
        return ''
    # A phase may begin before what was logged, or end behind it.
    left, right = (min(max(xs.share(x), 0.0), 1.0) for x in shade)
    return box('shade', left, right)


def _rules(xs: Axis, ys: Axis, marks: Sequence[float]) -> str:
    across = ''.join(
        f'M0 {HEIGHT * (1 - ys.share(tick)):.1f}h{WIDTH:g}'
        for tick in ys.ticks
    )
    down = ''.join(
        f'M{WIDTH * xs.share(mark):.1f} 0v{HEIGHT:g}'
        for mark in marks
        if xs.low <= mark <= xs.high
    )
    return path('rule', across) + path('rule mark', down)


def _drawn(lines: Sequence[Line], xs: Axis, ys: Axis) -> str:
    parts = []
    for kind, line in zip(KINDS, lines, strict=False):
        places = scaled(line.points, xs, ys)
        parts.append(path(kind, through(places)))
        if len(places) <= DOTS:
            # A line of no length with a round end is a dot of any size.
            dots = ''.join(f'M{x:.1f} {y:.1f}h0' for x, y in places if y == y)
            parts.append(path(f'{kind} dots', dots))
    return ''.join(parts)


def _values(lines: Sequence[Line], over: str, percent: bool) -> str:
    """Some of the numbers, to be read."""
    known = [dict(line.points) for line in lines]
    places = sorted({x for points in known for x in points})
    step = math.ceil(len(places) / ROWS)
    # With the last one, from which the others are counted.
    chosen = places[::-1][::step][::-1]

    def cell(points: dict[float, float], place: float) -> str:
        value = points.get(place, math.nan)
        return number_text(value, percent) if math.isfinite(value) else ''

    rows = (
        row(f'{x:,.0f}', (cell(points, x) for points in known)) for x in chosen
    )
    head = [over, *(line.name for line in lines)]
    return f'<details><summary>Values</summary>{table(head, rows)}</details>'
