# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Drawings in SVG that are stretched to whatever width they get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .axis import Axis
from .colours import AGAINST, DOT, LINE

# Coordinates of every drawing.
WIDTH, HEIGHT = 1000.0, 400.0
STYLE = f"""
.line{{fill:none;stroke:{DOT};stroke-width:2;stroke-linejoin:round;
vector-effect:non-scaling-stroke}}
.dots{{stroke-width:6;stroke-linecap:round}}
.against{{stroke:{AGAINST};stroke-dasharray:6 4}}
.third{{stroke:{LINE};stroke-dasharray:2 3}}
.rule{{fill:none;stroke:{LINE};stroke-opacity:.35;stroke-width:1;
vector-effect:non-scaling-stroke}}
.mark{{stroke-opacity:1;stroke-dasharray:3 3}}
.shade{{fill:{LINE};fill-opacity:.13}}.area{{fill:{DOT}}}
.back{{fill:{DOT};fill-opacity:.2}}
.band0{{fill:{DOT};fill-opacity:.16}}.band1{{fill:{DOT};fill-opacity:.24}}
.band2{{fill:{DOT};fill-opacity:.36}}
"""
Points = Sequence[tuple[float, float]]


def drawing(label: str, content: str, kind: str = '') -> str:
    """Returns a drawing.

    Args:
        label (str): Plain text, for who does not see the picture.
        content (str): SVG.
        kind (str): Class of its size. Defaults to none.
    """
    name = f' class="{kind}"' if kind else ''
    # Stretched both ways; strokes keep their width by the style.
    return (
        f'<svg role="img" aria-label="{escape(label)}"{name} viewBox="0 0 '
        f'{WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none">{content}</svg>'
    )


def path(kind: str, data: str) -> str:
    """Returns what is drawn in one go.

    Args:
        kind (str): Its classes.
        data (str): Where it goes.
    """
    return f'<path class="{kind}" d="{data}"/>'


def box(kind: str, left: float, right: float) -> str:
    """Returns a rectangle of the whole height.

    Args:
        kind (str): Its classes.
        left (float): Where it begins, as a share of the width.
        right (float): Where it ends.

    Examples:
        >>> box('back', 0, 0.5)
        '<path class="back" d="M0.0 0H500.0V400H0.0z"/>'
    """
    a, b = (WIDTH * share for share in (left, right))
    return path(kind, f'M{a:.1f} 0H{b:.1f}V{HEIGHT:g}H{a:.1f}z')


def scaled(points: Points, xs: Axis, ys: Axis) -> list[tuple[float, float]]:
    """Returns coordinates of points, NaN where one is not finite.

    Args:
        points (Points): Pairs.
        xs (Axis): Of the first numbers.
        ys (Axis): Of the second ones, upwards.
    """
    return [
        (
            WIDTH * xs.share(x),
            # Up is down on a page.
            HEIGHT * (1 - ys.share(y)) if math.isfinite(y) else math.nan,
        )
        for x, y in points
    ]


def through(places: Points) -> str:
    """Returns a line through places, which begins anew behind a gap.

    Args:
        places (Points): Coordinates, NaN for a gap.

    Examples:
        >>> through([(0, 1), (2, 3), (4, float('nan')), (5, 6)])
        'M0.0 1.0L2.0 3.0M5.0 6.0'
    """
    parts, command = [], 'M'
    for x, y in places:
        if math.isfinite(y):
            parts.append(f'{command}{x:.1f} {y:.1f}')
            command = 'L'
        else:
            command = 'M'
    return ''.join(parts)
