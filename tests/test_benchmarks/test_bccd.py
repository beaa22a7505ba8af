# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Configs of the rows on photos and on digits, and their table."""

import bccd
import pytest
from accuracy.jobs import Store
from bccd import (
    DEMO,
    IMAGES,
    ROOT,
    ROWS,
    Recipe,
    config_of,
    parse_args,
    report,
)
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
    assert config.model.get('divisor', 1) == (8 if name[-2:] == '-8' else 1)


@pytest.mark.parametrize('images', IMAGES)
def test_steps_are_those_of_the_images(images, tmp_path):
    """Controls are narrow after one, LAPP as the demo or four epochs."""

    def steps(name):
        path = tmp_path / 'a.py'
        path.write_text(config_of(ROWS[name], 0, 0.5, 0, images))
        return Config.fromfile(path).custom_hooks[0].prune_iters

    epoch = {'bccd': -(-205 // 8), 'digits': 800 // 16}[images]
    pruned = Config.fromfile(ROOT / DEMO.pruned)
    demo = pruned.custom_hooks[0].prune_epochs
    phase = {'bccd': 4, 'digits': demo}[images] * epoch
    assert steps('uniform') == steps('random-whole') == 1
    assert steps('lapp') == steps('lapp-whole-paths') == phase
    assert steps('lapp-whole-long') == 2 * phase


def test_the_digits_are_those_of_the_demo(tmp_path):
    path = tmp_path / 'a.py'
    path.write_text(config_of(ROWS['lapp-whole'], 0, 0.5, 0, 'digits'))
    config = Config.fromfile(path)
    pruned = Config.fromfile(ROOT / DEMO.pruned)
    assert config.train_dataloader == pruned.train_dataloader
    assert config.model.backbone == pruned.model.backbone
    assert config.model.input_shape == pruned.model.input_shape
    args = parse_args(['--images', 'digits'])
    assert args.out.name == 'digits.json'
    assert args.work_dir.name == 'digits'


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
