# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is timed is the stock run and the recipe, on the same images."""

import json

import pytest
import run_time
from mmengine.config import Config
from PIL import Image


@pytest.fixture
def data(tmp_path):
    for folder in ('train', 'test'):
        for kind in 'ab':
            (tmp_path / folder / kind).mkdir(parents=True)
            for number in range(20):
                path = tmp_path / folder / kind / f'{number}.png'
                Image.new('RGB', (2, 2)).save(path)
    return tmp_path


def parse(data, *more):
    return run_time.parse_args([str(data), '--batch', '4', *more])


def configs(data, tmp_path, *more):
    read = {}
    for name in run_time.CONFIGS:
        path = tmp_path / f'{name}.py'
        path.write_text(run_time.config_of(name, parse(data, *more)))
        read[name] = Config.fromfile(path)
    return tuple(read.values())


def test_all_see_the_same_images(data, tmp_path):
    dense, *pruned = configs(data, tmp_path, '--steps', '5', '--size', '8')
    for lapp in pruned:
        assert dense.train_dataloader == lapp.train_dataloader
        assert dense.train_cfg == lapp.train_cfg
    indices = dense.train_dataloader.dataset.indices
    assert len(indices) == 20
    assert {i // 20 for i in indices} == {0, 1}  # both classes


def test_the_recipe_is_that_of_the_repository(data, tmp_path):
    found = configs(data, tmp_path, '--steps', '5', '--size', '8')
    dense, lapp, streams, even = found
    assert dense.model.type == 'ImageClassifier'
    assert lapp.model.divisor == 16
    assert tuple(lapp.model.input_shape) == (3, 8, 8)
    recipe = Config.fromfile(run_time.CONFIGS['lapp'])
    assert lapp.model.keep_streams == recipe.model.keep_streams
    assert {**streams.model, 'keep_streams': True} == lapp.model
    assert not streams.model.keep_streams
    update = {'type': 'balance', 'task_weight': 0}
    method = {'type': 'lapp', 'update': update}
    assert even.model == {**streams.model, 'method': method}
    assert streams.custom_hooks == even.custom_hooks == lapp.custom_hooks
    ours, theirs = lapp.custom_hooks[-1], recipe.custom_hooks[-1]
    assert ours.target == theirs.target
    share = theirs.prune_epochs / recipe.train_cfg.max_epochs
    assert share == run_time.PHASE / run_time.EPOCHS
    assert ours.prune_epochs / lapp.train_cfg.max_epochs == share


def test_too_few_images_are_named(data):
    with pytest.raises(SystemExit, match='holds 40 images, of 44'):
        run_time.config_of('dense', parse(data, '--steps', '11'))


def test_runs_take_turns(data, tmp_path, monkeypatch, capsys):
    seconds = dict(zip(run_time.CONFIGS, [8.0, 4.0, 2.0, 1.0], strict=True))
    ran = []

    def train(name, folder, args):
        ran.append(name)
        return seconds[name]

    monkeypatch.setattr(run_time, 'train', train)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    out = tmp_path / 'a.json'
    argv = ['run_time.py', str(data), '--repeats', '2', '--json', str(out)]
    monkeypatch.setattr('sys.argv', argv)
    run_time.main()
    assert ran == [*sorted(seconds), *sorted(seconds, reverse=True)]
    ratios = json.loads(out.read_text())['ratios']
    expected = {'lapp': 0.5, 'lapp-streams': 0.25, 'lapp-even': 0.125}
    assert ratios == {name: [ratio] * 2 for name, ratio in expected.items()}
    told = capsys.readouterr().out
    assert 'lapp, ResNet-18 at 44.4 % of the FLOPs' in told
    assert 'takes 0.25 of the dense run' in told
