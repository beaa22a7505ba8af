# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import re

import torch

from mmlapp.engine.criteria.pictures import (
    CELL,
    PLOT,
    heat_map,
    kept_picture,
    quantile_plot,
)


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
