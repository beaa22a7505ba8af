# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Colours that can be told from a light and from a dark page."""

from __future__ import annotations

from collections.abc import Sequence

# -1, 0 and 1, in sRGB: colours that the colour-blind tell apart.
LOW, MIDDLE, HIGH = (178, 80, 10), (244, 243, 238), (16, 78, 139)
# What is drawn as it is, what is set against it, and lines behind both.
DOT, AGAINST, LINE = '#3f83c7', '#c8641e', '#808080'


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
    # sRGB to linear light: a line near black, a power of 2.4 above it.
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
