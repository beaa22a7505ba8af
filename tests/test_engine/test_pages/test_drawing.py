# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

from html_page import Page

from mmlapp.engine.pages.axis import Axis
from mmlapp.engine.pages.drawing import (
    HEIGHT,
    WIDTH,
    drawing,
    path,
    scaled,
    through,
)


def test_up_is_up():
    xs, ys = Axis(0, 10, ()), Axis(-1, 1, ())
    places = scaled([(0, -1), (5, 0), (10, 1)], xs, ys)
    assert places == [(0, HEIGHT), (WIDTH / 2, HEIGHT / 2), (WIDTH, 0)]


def test_what_is_not_finite_leaves_a_gap():
    axis = Axis(0, 4, ())
    points = [(0, 0), (1, math.nan), (2, math.inf), (3, 0), (4, 4)]
    text = through(scaled(points, axis, axis))
    assert text == 'M0.0 400.0M750.0 400.0L1000.0 0.0'


def test_a_drawing_says_what_it_shows():
    page = Page(drawing('a "<b>"', path('line', 'M0 0h1'), 'wide'))
    page.check_closed()
    assert 'aria-label="a &quot;&lt;b&gt;&quot;"' in page.text
    assert page.tags == ['svg', 'path']
