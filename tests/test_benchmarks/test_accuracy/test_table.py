# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Differences are taken seed by seed."""

import json
import math
from pathlib import Path

import pytest
from accuracy.command import RESULTS
from accuracy.rows import TABLES
from accuracy.table import by_row, deviation, difference, report

PAGE = Path(__file__).parents[3] / 'docs' / 'benchmarks.md'


def runs(*accuracies, first=0):
    return {
        first + i: {
            'seed': first + i, 'accuracy': a, 'flops': 0.5,
            'parameters': 1500, 'epochs': 3, 'cost': 0.5,
        }
        for i, a in enumerate(accuracies)
    }  # fmt: skip


def test_differences_of_equal_seeds():
    base = runs(80.0, 82.0, 90.0)
    # + 1, + 3: mean 2, deviation sqrt(2), error 1
    assert difference(runs(81.0, 85.0), base) == '+2.00 ± 1.00'
    assert difference(runs(81.0, first=7), base) == ''
    assert difference(base, base) == ''
    assert difference(runs(81.0), base) == '+1.00'  # no spread of one seed


def test_one_value_has_no_deviation():
    assert math.isnan(deviation([1.0]))
    assert deviation([1.0, 3.0]) == pytest.approx(math.sqrt(2))


def test_a_table_has_its_rows_in_order(tmp_path):
    results = [
        {'row': name, **run}
        for name, found in (
            ('lapp', runs(89.0, 91.0)),
            ('dense', runs(90.0, 92.0)),
        )
        for run in found.values()
    ]
    path = tmp_path / 'headline.json'
    path.write_text(json.dumps({'recipe': {}, 'results': results}))
    lines = report('headline', path).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith('| dense | 50.0 % | 2 k | 3 | 50.0 % | 2 |')
    assert lines[3].startswith('| lapp ')
    assert lines[3].endswith('| 90.00 ± 1.41 | -1.00 ± 0.00 |')
    lines = report('headline', path, ['lapp']).splitlines()
    assert lines[0].endswith('| top-1 | minus lapp |')
    assert lines[2].endswith('| 91.00 ± 1.41 | +1.00 ± 0.00 |')
    assert lines[3].endswith('| 90.00 ± 1.41 |  |')


@pytest.mark.parametrize(
    'path', sorted(RESULTS.glob('*.json')), ids=lambda p: p.stem
)
def test_the_page_has_what_the_results_say(path):
    lines = report(path.stem.partition('_')[0], path).splitlines()
    assert len(lines) > 2
    assert set(lines) <= set(PAGE.read_text().splitlines())


@pytest.mark.parametrize(
    ('row', 'base', 'told'),
    [
        ('lapp-inner-1', 'curvature-inner-1', '+0.61 ± 0.06 | 5 |'),
        ('lapp-inner', 'curvature-inner', '+0.59 ± 0.29 | 3 |'),
        ('lapp', 'curvature', '+0.41 ± 0.20 | 5 |'),
        ('lapp-long', 'curvature-long', '+0.18 ± 0.07 | 2 |'),
    ],
)
def test_the_reason_for_the_default_is_what_was_measured(row, base, told):
    found = by_row(TABLES['ablation'], RESULTS / 'ablation.json')
    seeds = len(found[row].keys() & found[base].keys())
    assert f'{difference(found[row], found[base])} | {seeds} |' == told
    assert told in (PAGE.parent / 'method.md').read_text()
