# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the tables compare."""

import json

import pytest
from accuracy.build import build
from accuracy.command import RESULTS
from accuracy.rows import TABLES
from accuracy.table import by_row

from mmlapp.core.methods import METHODS
from mmlapp.core.methods.lapp import Balance


def method_of(row):
    return row.method if isinstance(row.method, str) else row.method['type']


LAPP = {
    (table, name): METHODS.build(row.method)
    for table, rows in TABLES.items()
    for name, row in rows.items()
    if row.method and method_of(row) == 'lapp'
}

FAMILY = {n: row for n, row in TABLES['family'].items() if row.method}


@pytest.mark.parametrize('key', LAPP, ids='-'.join)
def test_names_of_rows_tell_what_the_thresholds_go_by(key):
    """``lapp`` is the default of today, ``curvature`` the former one."""
    if key[1] == 'gradient':
        assert not isinstance(LAPP[key].update, Balance)
        return
    kind = 'curvature' if key[1].startswith('curvature') else 'magnitude'
    assert LAPP[key].update.sensitivity == kind


@pytest.mark.parametrize(
    'path', sorted(RESULTS.glob('*.json')), ids=lambda p: p.stem
)
def test_every_result_has_a_row_that_runs_again(path):
    results = json.loads(path.read_text())['results']
    assert {run['row'] for run in results} <= set(TABLES[path.stem])


def test_rows_of_two_tables_are_one_if_they_have_one_name():
    """Their results may then be copied, as those of the headline are."""
    headline, ablation = TABLES['headline'], TABLES['ablation']
    shared = headline.keys() & ablation.keys()
    assert {'dense', 'uniform', 'random', 'lapp', 'curvature'} <= shared
    found, known = (
        by_row(shared, RESULTS / f'{table}.json')
        for table in ('headline', 'ablation')
    )
    assert all(headline[name] == ablation[name] for name in shared)
    assert found == known


def test_the_family_is_complete():
    """But for the control with random rates."""
    own = {n for n in METHODS if METHODS[n].__module__.startswith('mmlapp.')}
    assert {'random', *map(method_of, FAMILY.values())} == own
    assert {row.target for row in FAMILY.values()} == {0.5}


@pytest.mark.parametrize('name', FAMILY)
def test_every_member_comes_to_its_budget(name):
    row = FAMILY[name]
    built = build(row, epochs=1, seed=0)
    if built.pruner is None:
        assert 0.47 < built.wide <= 0.5
        return
    built.pruner.begin({'flops': row.target}, steps=100)
    built.pruner.finish()
    assert 0.49 < built.pruner.ratios()['flops'] <= 0.5
