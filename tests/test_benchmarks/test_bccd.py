# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Configs of the rows on photos, and their table."""

import bccd
import pytest
from accuracy.jobs import Store
from bccd import ROWS, Recipe, config_of, parse_args, report
from mmengine.config import Config

# Rows that do not begin with the name of their method.
KINDS = {'curvature': 'lapp'}


@pytest.mark.parametrize('name', ROWS)
def test_a_row_is_a_config_that_differs_in_pruning_alone(name, tmp_path):
    path = tmp_path / 'a.py'
    path.write_text(config_of(ROWS[name], 3, 0.4, epochs=7))
    config = Config.fromfile(path)
    assert config.train_cfg.max_epochs == 7
    assert config.randomness.seed == 3
    assert config.model.bbox_head.num_classes == 3
    if name == 'dense':
        assert config.model.type == 'ATSS'
        return
    assert config.model.architecture == 'ATSS'
    assert config.model.type == 'mmlapp.PrunableModel'
    assert config.custom_hooks[0].target == dict(flops=0.4)
    method = config.model.method
    assert method.type == KINDS.get(kind := name.split('-')[0], kind)
    squared = method.get('update', {}).get('sensitivity') == 'curvature'
    assert squared == (kind == 'curvature')
    assert ('seed' in config.model.method) == name.startswith('random')
    whole = tuple(config.model.scope) == ('backbone', 'neck', 'bbox_head')
    assert whole == ('whole' in name)
    assert config.model.get('keep_streams', False) == ('inner' in name)


def test_controls_are_narrow_after_a_step():
    steps = -(-205 // 8)
    assert round(ROWS['uniform'].epochs * steps) == 1
    assert ROWS['lapp'].epochs * steps > 50


def test_a_table_has_differences_seed_by_seed(tmp_path):
    path = tmp_path / 'bccd.json'
    assert len(report(path).splitlines()) == 2  # titles of nothing so far
    store = Store(path, Recipe(0.5, 0))

    def result(row, seed, accuracy):
        return {'row': row, 'seed': seed, 'accuracy': accuracy, 'flops': 0.5}

    store.add(result('dense', 0, 50.0))
    store.add(result('dense', 1, 52.0))
    store.add(result('lapp', 1, 53.0))
    store.add(result('lapp', 0, 49.0))
    lines = report(path).splitlines()
    assert lines[2] == '| dense | 50.0 % | 2 | 51.0 ± 1.41 |  |'
    assert lines[3] == '| lapp | 50.0 % | 2 | 51.0 ± 2.83 | +0.00 ± 1.00 |'


def test_what_is_there_is_not_run_again(tmp_path, monkeypatch, capsys):
    ran = []

    def run(name, seed, args):
        ran.append((name, seed))
        return {'row': name, 'seed': seed, 'accuracy': 1.0, 'flops': 0.5}

    out = ['--out', str(tmp_path / 'bccd.json')]
    monkeypatch.setattr(bccd, 'run', run)
    for rows in (['dense'], ['lapp', 'dense']):
        args = parse_args(['--rows', *rows, '--seeds', '0', '1', *out])
        monkeypatch.setattr(bccd, 'parse_args', lambda args=args: args)
        bccd.main()
    assert ran == [('dense', 0), ('dense', 1), ('lapp', 0), ('lapp', 1)]
    assert '| lapp |' in capsys.readouterr().out


def test_results_of_another_target_are_not_mixed(tmp_path, monkeypatch):
    path = tmp_path / 'bccd.json'
    Store(path, Recipe(0.5, 0)).add({'row': 'dense', 'seed': 0})
    args = parse_args(['--target', '0.4', '--out', str(path)])
    monkeypatch.setattr(bccd, 'parse_args', lambda: args)
    with pytest.raises(ValueError, match=r'target.*give another --out'):
        bccd.main()
