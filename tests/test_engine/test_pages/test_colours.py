# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.engine.pages.colours import (
    AGAINST,
    DOT,
    LINE,
    colour,
    ink,
    luminance,
)


@pytest.mark.parametrize('value', [-1, -0.6, -0.3, 0, 0.2, 0.45, 0.7, 1])
def test_numbers_can_be_read_on_every_colour(value):
    """At least 4.5 to 1, as WCAG asks for text of that size."""
    back = luminance(colour(value))
    front = {'#000': 0.0, '#fff': 1.0}[ink(colour(value))]
    lighter, darker = max(back, front), min(back, front)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.parametrize('page', ['#ffffff', '#161616'])
@pytest.mark.parametrize('drawn', [DOT, AGAINST, LINE])
def test_pictures_can_be_seen_in_both_themes(page, drawn):
    """At least 3 to 1, as WCAG asks for graphics."""
    light = [luminance(bytes.fromhex(text[1:])) for text in (page, drawn)]
    assert (max(light) + 0.05) / (min(light) + 0.05) >= 3


def test_luminance_of_known_colours():
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 255, 0)) == pytest.approx(0.7152)
    # 0.5 of the range is about a fifth of the light.
    assert luminance((128, 128, 128)) == pytest.approx(0.2159, abs=1e-4)
