# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a study in HTML and SVG.

Text stays text, and a picture has a few hundred bytes. Their colours can be
told from a light and from a dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from torch import Tensor

# -1, 0 and 1, in sRGB: colours that the colour-blind tell apart.
LOW, MIDDLE, HIGH = (178, 80, 10), (244, 243, 238), (16, 78, 139)
# What is drawn as it is, and lines behind it.
DOT, LINE = '#3f83c7', '#808080'
# What stands where there is no number.
NOTHING = '&ndash;'
# Size of a cell in a picture of kept channels, and of a quantile plot.
CELL, PLOT = 6, 120
# Standard deviations from the mean that a plot shows; more is at its rim.
RIM = 4.0


def colour(value: float) -> tuple[int, int, int]:
    """Colour of a number between -1 and 1.

    Args:
        value (float): The number.

    Examples:
        >>> colour(0.0), colour(1.0)
        ((244, 243, 238), (16, 78, 139))
    """
    end = HIGH if value > 0 else LOW
    share = min(abs(value), 1.0)
    red, green, blue = (
        round(a + share * (b - a)) for a, b in zip(MIDDLE, end, strict=True)
    )
    return red, green, blue


def luminance(rgb: Sequence[int]) -> float:
    """Relative luminance of a colour (WCAG 2), in [0, 1].

    Args:
        rgb (Sequence[int]): Red, green and blue, from 0 to 255.
    """
    parts = [x / 255 for x in rgb]
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
        for x in parts
    ]
    weights = 0.2126, 0.7152, 0.0722
    return sum(w * x for w, x in zip(weights, linear, strict=True))


def ink(rgb: Sequence[int]) -> str:
    """Black or white, whichever is easier to read on a colour.

    Args:
        rgb (Sequence[int]): The colour.
    """
    # Contrast is (lighter + 0.05) / (darker + 0.05): equal for both at 0.179.
    return '#000' if luminance(rgb) > 0.179 else '#fff'


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
