# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math
import re

import pytest
from html_page import Page

from mmlapp.engine.pages.charts import (
    DOTS,
    MOST,
    ROWS,
    Line,
    line_chart,
    number_text,
    thinned,
)

LEFT = Line('left', [(0, 1.0), (10, 0.5), (20, 0.25)])
ASKED = Line('<asked>', [(0, 1.0), (20, 0.25)])


def chart(*lines, **settings):
    return Page(line_chart('Cost', lines, 'iteration', **settings))


def test_a_chart_can_be_read_without_being_seen():
    page = chart(LEFT, ASKED, percent=True)
    page.check_closed()
    (label,) = re.findall(r'role="img" aria-label="([^"]+)"', page.text)
    assert label == (
        'Cost over iteration: left from 1 to 0.25, lowest 0.25, highest 1; '
        '&lt;asked&gt; from 1 to 0.25, lowest 0.25, highest 1'
    )
    start = page.texts.index('Values') + 4
    assert page.texts[start - 3 : start] == ['iteration', 'left', '<asked>']
    assert page.texts[start:] == [
        '0', '100%', '100%', '10', '50%', '20', '25%', '25%'
    ]  # fmt: skip


def test_lines_lie_where_their_values_are():
    page = chart(LEFT, ASKED, percent=True)
    # The axis ends at its ticks: 0.2 to 1.
    assert page.texts[2:8] == [' <asked>', '20%', '40%', '60%', '80%', '100%']
    line, other = re.findall(r'<path class="line(?: against)?" d="([^h]+)"',
                             page.text)[-2:]  # fmt: skip
    assert line == 'M0.0 0.0L500.0 250.0L1000.0 375.0'
    assert other == 'M0.0 0.0L1000.0 375.0'
    # Every tick stands beside its rule.
    heights = [float(h) for h in re.findall(r'top:([\d.]+)%', page.text)]
    (rules,) = re.findall(r'class="rule" d="([^"]+)"', page.text)
    assert [4 * h for h in heights] == [
        float(y) for y in re.findall(r'M0 ([\d.]+)h', rules)
    ]


def test_one_line_needs_no_legend():
    assert chart(LEFT).texts.count('left') == 1  # above its values
    assert chart(LEFT, ASKED).text.count('class="key"') == 2


def test_the_phase_is_shaded_and_starts_are_marked():
    page = chart(LEFT, shade=(5, 30), marks=[10, 40])
    assert '<path class="shade" d="M250.0 0H1000.0V400H250.0z"/>' in page.text
    assert '<path class="rule mark" d="M500.0 0v400"/>' in page.text


def test_gaps_and_single_points_can_be_seen():
    page = chart(Line('a', [(1, 2.0), (2, math.nan), (3, math.inf)]))
    page.check_closed()
    assert 'a from 2 to 2, lowest 2, highest 2' in page.text
    assert page.text.count('h0') == 1
    other = chart(LEFT, Line('b', [(0, math.nan)]))
    assert 'b has no finite value' in other.text


def test_many_points_become_few():
    points = [(n, float(n % 2)) for n in range(1, 10_001)]
    found = thinned(points)
    assert len(found) <= MOST
    assert found[-1][0] == 10_000
    assert {round(y, 1) for _, y in found} == {0.5}
    page = chart(Line('a', points))
    assert page.tags.count('tr') <= ROWS + 1
    assert len(page.text) < 10_000
    # The last one is among those that can be read.
    assert '10,000' in page.texts
    assert len(thinned(points[:MOST])) == MOST


def test_a_line_of_few_points_has_dots():
    few, many = ([(n, n) for n in range(DOTS + k)] for k in (0, 1))
    assert 'line dots' in chart(Line('a', few)).text
    assert 'line dots' not in chart(Line('a', many)).text


@pytest.mark.parametrize(
    ('value', 'percent', 'text'),
    [
        (0.40312, True, '40.31%'),
        (1.0, True, '100%'),
        (-0.25, False, '&minus;0.25'),
        (0.1 + 0.2, False, '0.3'),
        (450_360, False, '450,360'),
        (2.5e-7, False, '2.5e&minus;07'),
    ],
)
def test_numbers(value, percent, text):
    assert number_text(value, percent) == text
