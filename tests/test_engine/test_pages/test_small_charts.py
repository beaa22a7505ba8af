# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math
import re

from mmlapp.engine.pages.small_charts import bar, fan, strip


def paths(text):
    return dict(re.findall(r'<path class="([^"]+)" d="([^"]+)"', text))


def test_bands_lie_between_quantiles_of_the_same_rank():
    found = paths(
        fan([0, 10], [[0, 2, 3, 4, 10], [0, 1, 2, 3, 10]], [5, 10], 'a')
    )
    assert list(found) == ['band0', 'band1', 'line against']
    # There along the upper one, back along the lower one; 40 per unit.
    assert found['band0'] == 'M0.0 0.0L1000.0 0.0L1000.0 400.0L0.0 400.0z'
    assert found['band1'] == 'M0.0 240.0L1000.0 280.0L1000.0 360.0L0.0 320.0z'
    assert found['line against'] == 'M0.0 200.0L1000.0 0.0'


def test_a_line_outside_of_the_bands_is_inside_of_the_picture():
    found = paths(fan([0, 1], [[1, 2, 3]] * 2, [-1, math.nan], 'a'))
    assert found['line against'] == 'M0.0 400.0'
    assert found['band0'] == 'M0.0 0.0L1000.0 0.0L1000.0 200.0L0.0 200.0z'


def test_one_moment_and_equal_scores_can_be_drawn():
    found = paths(fan([7], [[2, 2, 2]], [2], 'a'))
    assert found['line against'] == 'M500.0 400.0'


def test_a_share_stays_until_it_changes():
    found = paths(strip([(0, 1.0), (4, 0.25)], 8, 'a < b'))
    assert found['area'] == 'M0.0 400V0.0H500.0V300.0H1000V400z'
    assert 'aria-label="a &lt; b"' in strip([(0, 1.0)], 0, 'a < b')


def test_a_bar_before_another_one():
    found = paths(bar(0.25, 0.5, 'a'))
    assert found['back'] == 'M0.0 0H500.0V400H0.0z'
    assert found['area'] == 'M0.0 0H250.0V400H0.0z'
