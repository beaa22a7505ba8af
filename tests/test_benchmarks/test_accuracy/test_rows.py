# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the tables compare."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accuracy.build import build
from accuracy.command import RESULTS
from accuracy.rows import TABLES
from accuracy.table import by_row
from mmengine.config import Config

from mmlapp.core.methods import METHODS
from mmlapp.core.methods.lapp import Balance
from mmlapp.core.score import SCORES

ROOT = Path(__file__).parents[3]
SLOW = pytest.mark.slow


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
    if key[1].endswith('gradient'):
        assert not isinstance(LAPP[key].update, Balance)
        return
    kind = 'curvature' if key[1].startswith('curvature') else 'magnitude'
    assert LAPP[key].update.sensitivity == kind


@pytest.mark.parametrize(
    'path', sorted(RESULTS.glob('*.json')), ids=lambda p: p.stem
)
def test_every_result_has_a_row_that_runs_again(path):
    results = json.loads(path.read_text())['results']
    # `headline_50_epochs` are rows of `headline`, in another recipe.
    table = path.stem.partition('_')[0]
    assert {run['row'] for run in results} <= set(TABLES[table])


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
    """But for the control with random rates; scores with a paper, too."""
    own = {n for n in METHODS if METHODS[n].__module__.startswith('mmlapp.')}
    assert {'random', *map(method_of, FAMILY.values())} == own
    assert {'curl', 'cpmc', 'functionality'} <= FAMILY.keys()
    assert {row.target for row in FAMILY.values()} == {0.5}


# Where the settings of both are said to be the same: by row, the recipe.
RECIPES = {
    'ranking-taylor': 'ranking',
    'one-cycle': 'one-cycle',
    'psap': 'psap',
    'soft': 'soft',
    'curl': 'curl',
    'cpmc': 'cpmc',
    'functionality': 'functionality',
}
SETTINGS = 'normalisation', 'min_keep', 'protect', 'unit'


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_have_the_settings_of_the_rows(name):
    """But for calibration batches, which are of another size."""
    path = f'{RECIPES[name]}-flops50_resnet20_b128_cifar10-folder.py'
    model = Config.fromfile(ROOT / 'configs' / 'resnet' / path).model
    row = FAMILY[name]
    said = {'method': row.method, **row.settings}
    for key, choices in (('method', METHODS), ('score', SCORES)):
        found, expected = (
            choices.in_full(each.get(key, 'l2')) for each in (model, said)
        )
        assert {**found, 'batches': 0} == {**expected, 'batches': 0}
    for key in SETTINGS:
        assert model.get(key) == said.get(key), key


@pytest.mark.parametrize(
    'name',
    # A forward for every channel.
    [pytest.param(n, marks=SLOW) if n == 'curl' else n for n in FAMILY],
)
def test_every_member_comes_to_its_budget(name):
    row, images = FAMILY[name], torch.rand(2, 3, 32, 32)
    # One that goes on with trained weights begins with those at random here.
    built = build(replace(row, start=''), epochs=1, seed=0)
    if built.pruner is None:
        assert 0.47 < built.wide <= 0.5
        return
    built.pruner.prepare(built.model, [lambda: built.model(images)])
    built.pruner.begin({'flops': row.target}, steps=100)
    built.pruner.finish()
    assert 0.49 < built.pruner.ratios()['flops'] <= 0.5
