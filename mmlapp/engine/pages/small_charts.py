# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Charts that stand in rows and columns, many on a page."""

from __future__ import annotations

from collections.abc import Sequence

from .axis import Axis
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

STYLE = """
.fan{width:100%;height:5.5rem;border:1px solid var(--rule)}
.strip{width:100%;height:1rem;display:block}
"""


def fan(
    places: Sequence[float],
    shares: Sequence[Sequence[float]],
    line: Sequence[float],
    label: str,
) -> str:
    """How numbers spread over time, and a line among them.

    Args:
        places (Sequence[float]): Iterations.
        shares (Sequence[Sequence[float]]): An odd number of quantiles at
            each of them, ascending.
        line (Sequence[float]): Drawn across; NaN leaves a gap.
        label (str): For who does not see the picture.
    """
    xs = Axis.over(places, whole=True)
    ys = Axis.around([*line, *(value for s in shares for value in s)])

    def drawn(values: Sequence[float]) -> list[tuple[float, float]]:
        return scaled(list(zip(places, values, strict=True)), xs, ys)

    def band(number: int) -> str:
        # There along the upper quantile, back along the lower one.
        upper = drawn([s[-1 - number] for s in shares])
        lower = drawn([s[number] for s in shares])
        return path(f'band{number}', f'{through([*upper, *lower[::-1]])}z')

    # Seven quantiles: from the first to the last, the second to the sixth, the
    # third to the fifth; the median is no band.
    bands = ''.join(map(band, range(len(shares[0]) // 2)))
    across = path('line against', through(drawn(line)))
    return drawing(label, bands + across, 'fan')


def strip(points: Points, end: float, label: str) -> str:
    """A share over time, as a filled area that moves in steps.

    Args:
        points (Points): Pairs of an iteration and a share, ascending.
        end (float): Iteration at which it ends.
        label (str): For who does not see the picture.

    Examples:
        >>> strip([(0, 1.0), (5, 0.5)], 10, 'a').split('d=')[2]
        '"M0.0 400V0.0H500.0V200.0H1000V400z"/></svg>'
    """
    xs, ys = Axis.over([points[0][0], end], whole=True), Axis(0, 1, ())
    (x, y), *rest = scaled(points, xs, ys)
    # H and V are lines across and down: it stays until the next record.
    steps = ''.join(f'H{x:.1f}V{y:.1f}' for x, y in rest)
    data = f'M{x:.1f} {HEIGHT:g}V{y:.1f}{steps}H{WIDTH:g}V{HEIGHT:g}z'
    return drawing(label, box('back', 0, 1) + path('area', data), 'strip')


def bar(kept: float, dense: float, label: str) -> str:
    """One length before another one.

    Args:
        kept (float): Share of the width that is filled.
        dense (float): Share of the width behind it.
        label (str): For who does not see the picture.
    """
    content = box('back', 0, dense) + box('area', 0, kept)
    return drawing(label, content, 'strip')
