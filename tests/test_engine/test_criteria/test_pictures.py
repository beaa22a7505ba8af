# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import re

import pytest
import torch

from mmlapp.engine.criteria.pictures import (
    CELL,
    DOT,
    LINE,
    PLOT,
    colour,
    heat_map,
    ink,
    kept_picture,
    luminance,
    quantile_plot,
)


@pytest.mark.parametrize('value', [-1, -0.6, -0.3, 0, 0.2, 0.45, 0.7, 1])
def test_numbers_can_be_read_on_every_colour(value):
    """At least 4.5 to 1, as WCAG asks for text of that size."""
    back = luminance(colour(value))
    front = {'#000': 0.0, '#fff': 1.0}[ink(colour(value))]
    lighter, darker = max(back, front), min(back, front)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.parametrize('page', ['#ffffff', '#161616'])
@pytest.mark.parametrize('drawn', [DOT, LINE])
def test_pictures_can_be_seen_in_both_themes(page, drawn):
    """At least 3 to 1, as WCAG asks for graphics."""
    light = [luminance(bytes.fromhex(text[1:])) for text in (page, drawn)]
    assert (max(light) + 0.05) / (min(light) + 0.05) >= 3


def test_luminance_of_known_colours():
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 255, 0)) == pytest.approx(0.7152)
    # 0.5 of the range is about a fifth of the light.
    assert luminance((128, 128, 128)) == pytest.approx(0.2159, abs=1e-4)


def test_a_heat_map_has_a_cell_for_every_pair():
    matrix = torch.tensor([[1.0, -0.25], [torch.nan, 1.0]])
    text = heat_map(['a<b', 'c'], matrix, 'What')
    assert 'a&lt;b' in text
    assert '<caption>What</caption>' in text
    cells = re.findall(r'<td[^>]*>([^<]+)</td>', text)
    assert cells == ['1.00', '&minus;0.25', '&ndash;', '1.00']


def test_kept_channels_are_squares_at_their_places():
    text = kept_picture({'l1': [True, False, True]}, 'stem')
    assert 'aria-label="2 of 3 kept"' in text
    assert re.findall(r'M(\d+) 0h5', text) == ['0', str(2 * CELL)]
    assert f'width="{3 * CELL}"' in text


def test_points_of_a_quantile_plot():
    text = quantile_plot([(0.0, 0.0), (2.0, 9.0)], 'l<1')
    half = PLOT / 2
    # Up is down in SVG; nine deviations are drawn at the rim.
    expected = [(half, half), (0.75 * PLOT, 0)]
    found = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)
    assert [(float(x), float(y)) for x, y in found] == expected
    assert 'l&lt;1' in text
