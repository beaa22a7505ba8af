# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a study in HTML and SVG.

Text stays text, and a picture has a few hundred bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from torch import Tensor

from ..pages.colours import DOT, LINE, colour, ink
from ..pages.document import NOTHING

# Size of a cell in a picture of kept channels, and of a quantile plot.
CELL, PLOT = 6, 120
# Standard deviations from the mean that a plot shows; more is at its rim.
RIM = 4.0


def signed(value: float, digits: int) -> str:
    """A number with a minus that is as wide as a plus, in HTML.

    Args:
        value (float): The number.
        digits (int): Behind the point.

    Examples:
        >>> signed(-0.25, 1), signed(-0.001, 1)
        ('&minus;0.2', '0.0')
    """
    # What is rounded to zero has no sign: -0.0 + 0.0 = 0.0.
    rounded = round(value, digits) + 0.0
    return f'{rounded:.{digits}f}'.replace('-', '&minus;')


def heat_map(names: Sequence[str], matrix: Tensor, caption: str) -> str:
    """A matrix as a table with coloured cells.

    Args:
        names (Sequence[str]): Of its rows and columns.
        matrix (Tensor): From -1 to 1, NaN for none; ``[names, names]``.
        caption (str): What it shows.
    """
    head = ''.join(
        f'<th scope="col"><span>{escape(name)}</span></th>' for name in names
    )
    rows = ''.join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'{"".join(_cell(x) for x in row)}</tr>'
        for name, row in zip(names, matrix.tolist(), strict=True)
    )
    return (
        f'<div class="wide"><table class="heat"><caption>{escape(caption)}'
        f'</caption><thead><tr><td></td>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>'
    )


def _cell(value: float) -> str:
    if value != value:  # NaN
        return f'<td>{NOTHING}</td>'
    rgb = colour(value)
    style = f'background:rgb{rgb};color:{ink(rgb)}'.replace(' ', '')
    return f'<td style="{style}">{signed(value, 2)}</td>'


def kept_picture(kept: Mapping[str, Sequence[bool]], group: str) -> str:
    """Which channels of a group each score keeps: a row per score.

    Args:
        kept (Mapping[str, Sequence[bool]]): Whether each channel is kept, by
            name of the score.
        group (str): Name of the group, for who does not see the picture.
    """
    rows = ''.join(
        f'<tr><th scope="row">{escape(name)}</th><td>{_strip(flags)}</td></tr>'
        for name, flags in kept.items()
    )
    label = escape(f'Channels of {group} that each score keeps')
    return (
        f'<div class="wide"><table class="strips"><caption>{label}: filled'
        f'</caption><tbody>{rows}</tbody></table></div>'
    )


def _strip(flags: Sequence[bool]) -> str:
    """One path for all kept channels: a square each."""
    width = len(flags) * CELL
    # A pixel less than a cell, which keeps neighbours apart.
    squares = ''.join(
        f'M{place * CELL} 0h{CELL - 1}v{2 * CELL}h-{CELL - 1}z'
        for place, kept in enumerate(flags)
        if kept
    )
    label = f'{sum(map(bool, flags))} of {len(flags)} kept'
    height = 2 * CELL
    return (
        f'<svg role="img" aria-label="{label}" fill="{DOT}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<path fill-opacity=".2" d="M0 0h{width}v{height}h-{width}z"/>'
        f'<path d="{squares}"/></svg>'
    )


def quantile_plot(points: Sequence[Sequence[float]], label: str) -> str:
    """Quantiles of weights over those of a normal distribution.

    Args:
        points (Sequence): Pairs of both, in standard deviations.
        label (str): For who does not see the picture.
    """

    def place(value: float) -> float:
        inside = min(max(value, -RIM), RIM)
        return round((inside + RIM) / (2 * RIM) * PLOT, 1)

    dots = ''.join(
        # Up is down in SVG.
        f'<circle cx="{place(x)}" cy="{place(-y)}" r="2"/>'
        for x, y in points
    )
    half = PLOT // 2
    return (
        f'<svg role="img" aria-label="{escape(label)}" class="plot" '
        f'fill="{DOT}" viewBox="0 0 {PLOT} {PLOT}"><g stroke="{LINE}">'
        f'<path d="M0 {half}h{PLOT}M{half} 0v{PLOT}"/>'
        f'<path d="M0 {PLOT}L{PLOT} 0"/></g>{dots}</svg>'
    )
