# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math
from itertools import pairwise

import pytest

from mmlapp.engine.pages.axis import Axis


@pytest.mark.parametrize(
    'values',
    [[0.02, 2.3], [-3, 5e6], [1e-7, 3e-7], [0.998, 0.999], [-2, -1], [4, 4]],
)
def test_all_values_lie_on_the_axis_and_ticks_are_even(values):
    axis = Axis.over([*values, math.nan])
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])
    gaps = [b - a for a, b in pairwise(axis.ticks)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))
    assert 3 <= len(axis.ticks) <= 8


def test_iterations_end_at_the_last_one():
    axis = Axis.over([1, 17], whole=True)
    assert (axis.low, axis.high) == (1, 17)
    assert all(tick == int(tick) and 1 <= tick <= 17 for tick in axis.ticks)
    assert (axis.share(1), axis.share(9), axis.share(17)) == (0, 0.5, 1)


@pytest.mark.parametrize('value', [0.0, 3.0, -0.5])
def test_a_flat_line_lies_inside(value):
    assert 0 < Axis.over([value]).share(value) < 1
    assert Axis.over([value], whole=True).share(value) == 0.5
    assert Axis.around([value, value]).share(value) == 0


def test_around_has_the_least_and_the_largest_at_its_ends():
    axis = Axis.around([3, math.nan, -1, 2])
    assert (axis.low, axis.high, axis.ticks) == (-1, 3, ())
