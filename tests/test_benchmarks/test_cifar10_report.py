# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The table of the committed results, and how its rows are named."""

from pathlib import Path

import pytest
from cifar10 import parse_args
from cifar10_report import draw, load, table, title

RESULTS = Path(__file__).parents[2] / 'benchmarks' / 'results' / 'cifar10'


def test_the_committed_results_are_read(tmp_path):
    rows = load(RESULTS)
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    expected = (
        '| dense | 100.00 % | 85.40, 85.09 | 85.25 | 0.386, 0.378 | 55 |'
    )
    assert expected in lines
    expected = '| LAPP, filters, depthwise bypass | 40.27 % | 81.61 | 81.61 |'
    assert any(line.startswith(expected) for line in lines)
    draw(rows, tmp_path / 'images' / 'keep.png')
    assert (tmp_path / 'images' / 'keep.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        ('dense', 'dense'),
        ('lapp --seed 7', 'LAPP'),
        ('lapp --update gradient', 'LAPP, update=gradient'),
        ('uniform --order 1', 'uniform, from scratch'),
        ('random --spread 1', 'random, from scratch, spread=1.0'),
        (
            'lapp --bypass pointwise --unit filters',
            'LAPP, filters, pointwise bypass',
        ),
    ],
)
def test_a_row_is_named_by_what_is_not_the_default(words, expected):
    assert title(vars(parse_args(['data', *words.split()]))) == expected


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(SystemExit, match='no results'):
        load(tmp_path)
