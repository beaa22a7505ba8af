# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import errno
import json
import os
import pickle
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.engine import VisualizationHook

from mmlapp.core import PruningError
from mmlapp.engine.failures import is_failure

CONFIG = """
default_hooks = dict(visualization=dict(type='{hook}'))
model = dict(type='Net')
test_dataloader = dict(
    dataset=dict(type='Wrapper', dataset=dict(pipeline=['plain'])))
test_cfg = dict()
test_evaluator = dict(type='Accuracy')
"""
TTA = """
tta_model = dict(type='Average')
tta_pipeline = ['flipped']
"""


@pytest.fixture(scope='module')
def tool(load_tool):
    return load_tool('test')


@pytest.fixture
def configure(tool, tmp_path):
    def run(*argv, text=CONFIG, hook='VisualizationHook'):
        path = tmp_path / 'recipe.py'
        path.write_text(text.format(hook=hook))
        argv = [str(path), 'best.pth', *argv]
        return tool.configure(tool.parse_args(argv))

    return run


def test_the_checkpoint_is_loaded_and_nothing_drawn(configure):
    cfg = configure()
    assert cfg.load_from == 'best.pth'
    assert cfg.default_hooks.visualization == {'type': 'VisualizationHook'}
    assert cfg.model == {'type': 'Net'}


@pytest.mark.parametrize(
    ('hook', 'settings', 'folder'),
    [
        ('VisualizationHook', dict(enable=True, interval=1), 'out_dir'),
        (
            'mmpretrain.VisualizationHook',
            dict(enable=True, interval=1),
            'out_dir',
        ),
        ('mmdet.DetVisualizationHook', dict(draw=True), 'test_out_dir'),
    ],
)
def test_show_dir(configure, hook, settings, folder):
    cfg = configure('--show-dir', 'painted', hook=hook)
    assert cfg.default_hooks.visualization == {
        'type': hook,
        folder: str(Path.cwd() / 'painted'),
        'show': False,
        'wait_time': 2,
        **settings,
    }


def test_show(configure):
    hook = configure('--show', '--wait-time', '1').default_hooks.visualization
    assert hook.show is True
    assert hook.wait_time == 1
    assert 'out_dir' not in hook


def test_show_of_a_config_in_pure_python(tool):
    """It names classes, not texts."""
    hook = dict(type=VisualizationHook)
    cfg = Config(dict(default_hooks=dict(visualization=hook)))
    tool.show_predictions(cfg, tool.parse_args(['a.py', 'a.pth', '--show']))
    assert cfg.default_hooks.visualization.show is True


@pytest.mark.parametrize('hooks', [None, {}, dict(visualization=None)])
def test_show_needs_a_hook(tool, hooks):
    args = tool.parse_args(['a.py', 'a.pth', '--show'])
    with pytest.raises(ValueError, match="type=''; expected Vis"):
        tool.show_predictions(Config(dict(default_hooks=hooks)), args)


def test_show_needs_a_known_hook(configure):
    with pytest.raises(ValueError, match="type='OtherHook'; expected Vis"):
        configure('--show', hook='OtherHook')


def test_tta_wraps_the_model_and_the_innermost_dataset(configure):
    cfg = configure('--tta', text=CONFIG + TTA)
    assert cfg.model == {'type': 'Average', 'module': {'type': 'Net'}}
    assert cfg.test_dataloader.dataset.dataset.pipeline == ['flipped']


def test_tta_needs_a_recipe(configure):
    with pytest.raises(ValueError, match='no tta_model and no tta_pipeline'):
        configure('--tta')


def test_out_needs_a_known_suffix(configure, capsys):
    with pytest.raises(SystemExit):
        configure('--out', 'results.csv')
    assert 'name it .pkl for the predictions' in capsys.readouterr().err


class Parity(BaseModel):
    """Predicts whether a number is odd."""

    def forward(self, inputs, mode):
        return [{'odd': int(number) % 2} for number in inputs]


class OddCount(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(sample['odd'] for sample in data_samples)

    def compute_metrics(self, results):
        return {'odd': sum(results)}


@pytest.fixture
def runner(tmp_path, request):
    class Numbers(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return {'inputs': torch.tensor(index)}

    cfg = dict(
        batch_size=2,
        dataset=Numbers(),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield Runner(
            Parity(),
            work_dir=str(tmp_path),
            test_dataloader=cfg,
            test_evaluator=[OddCount()],
            test_cfg=dict(),
            experiment_name=request.node.name,
            cfg=Config(dict(default_scope='mmengine')),
            log_level='ERROR',
        )


def test_metrics_are_written(tool, runner, tmp_path):
    out = tmp_path / 'metrics.json'
    tool.evaluate(runner, out)
    assert json.loads(out.read_text()) == {'odd': 2}


def test_predictions_are_written(tool, runner, tmp_path):
    out = tmp_path / 'predictions.pkl'
    tool.evaluate(runner, out)
    predictions = pickle.loads(out.read_bytes())
    assert [sample['odd'] for sample in predictions] == [0, 1, 0, 1, 0]
    assert not list(tmp_path.glob('.*'))


def test_a_full_disk_leaves_the_former_predictions(
    tool, runner, tmp_path, monkeypatch
):
    def fill(results, path):
        Path(path).write_bytes(b'half')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / 'predictions.pkl'
    out.write_bytes(b'former')
    monkeypatch.setattr('mmengine.evaluator.metric.dump', fill)
    with pytest.raises(OSError, match='No space left') as info:
        tool.evaluate(runner, out)
    assert is_failure(info.value)  # one line
    assert out.read_bytes() == b'former'
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('lr = 0.1', 'it has no model'),
        ("model = dict(type='Net')", 'no test_cfg and no test_evaluator'),
        (
            f'{CONFIG}\ntest_dataloader = {{}}',
            'test_dataloader has no dataset',
        ),
    ],
)
def test_what_a_config_lacks_is_one_line(tool, tmp_path, text, found):
    path, checkpoint = tmp_path / 'recipe.py', tmp_path / 'a.pth'
    path.write_text(text)
    torch.save({'state_dict': {}}, checkpoint)
    with pytest.raises(SystemExit) as info:
        tool.main([str(path), str(checkpoint), '--tta'])
    assert info.value.code.startswith(f'error: config={str(path)!r}: ')
    assert found in info.value.code


def test_swapped_arguments_are_one_line(tool, tmp_path):
    checkpoint, config = tmp_path / 'a.pth', tmp_path / 'a.py'
    torch.save({'state_dict': {}}, checkpoint)
    config.write_text("model = dict(type='Net')")
    with pytest.raises(SystemExit, match=r'error: checkpoint=.*it is a text'):
        tool.main([str(checkpoint), str(config)])
    with pytest.raises(
        SystemExit, match=r'error: config=.*the config comes f'
    ):
        tool.main([str(checkpoint), str(checkpoint)])
    with pytest.raises(SystemExit, match=r'error: checkpoint=.* is a folder'):
        tool.main([str(config), str(tmp_path)])


@pytest.mark.parametrize(
    ('place', 'said'),
    [
        ('a.pth/metrics.json', 'there is no folder'),
        ('nowhere/predictions.pkl', 'there is no folder'),
        ('folder.json', 'is a folder'),
    ],
)
def test_what_cannot_be_written_is_not_evaluated(tool, tmp_path, place, said):
    config, checkpoint = tmp_path / 'a.py', tmp_path / 'a.pth'
    config.write_text(CONFIG)
    torch.save({'state_dict': {}}, checkpoint)
    (tmp_path / 'folder.json').mkdir()
    before = sorted(tmp_path.rglob('*'))
    out = str(tmp_path / place)
    with pytest.raises(SystemExit, match=f'error: out=.*{said}'):
        tool.main([str(config), str(checkpoint), '--out', out])
    assert sorted(tmp_path.rglob('*')) == before


def test_a_full_disk_leaves_no_half_of_the_metrics(tool, runner, tmp_path):
    def fill(data, file, **_):
        Path(file).write_text('{"od')
        raise OSError(28, 'No space left on device')

    out = tmp_path / 'metrics.json'
    with (
        patch.object(tool, 'dump', fill),
        pytest.raises(PruningError, match=r'out=.*No space left'),
    ):
        tool.evaluate(runner, out)
    assert not list(tmp_path.glob('*metrics*'))
