# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmlapp.core.cost import LatencyTable
from mmlapp.engine.deployment.masked import build_model
from mmlapp.engine.latency.setting import usual_divisor


@pytest.fixture(scope='module')
def tool(load_tool):
    return load_tool('latency_table')


FAST = ['--points', '2', '--rounds', '1']


def test_a_config_counts_from_the_table(
    tool, classifier_run, tmp_path, capsys
):
    """From the command to a network with a budget of its own."""
    run = classifier_run()
    path = tmp_path / 'table.json'
    tool.main([str(run.config), '--out', str(path), *FAST])
    out = capsys.readouterr().out
    assert 'backbone.layer1.0.conv1' in out
    assert f'wrote {path}' in out
    assert 'images of 3x16x16, at which the budget of the run' in out
    table = LatencyTable.load(path)
    divisor = table.divisor
    assert divisor == usual_divisor('cpu')
    assert table.setting['model'] == 'ImageClassifier'
    cfg = Config.fromfile(run.config)
    cfg.model.update(
        costs=['flops', dict(type='latency', table=str(path))],
        divisor=divisor,
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(cfg)
    assert model.pruner.ratios()['latency'] == pytest.approx(1)
    # Again: nothing to do.
    before = path.read_bytes()
    tool.main([str(run.config), '--out', str(path), *FAST])
    out = capsys.readouterr().out
    assert f'{path} was there, and was not measured again' in out
    assert 'wrote' not in out
    assert path.read_bytes() == before
    with pytest.raises(SystemExit) as stop:
        tool.main([str(run.config), '--out', str(path), '--batch', '2', *FAST])
    assert 'error: ' in str(stop.value)
    assert 'batch 1, not 2' in str(stop.value)
    assert '\n' not in str(stop.value)
    assert path.read_bytes() == before


def test_the_config_is_not_written_over(tool, classifier_run, capsys):
    run = classifier_run()
    before = run.config.read_bytes()
    argv = [str(run.config), '--out', str(run.config), '--force', *FAST]
    with pytest.raises(SystemExit, match=r"out='.*run.py' is '.*run.py', whi"):
        tool.main(argv)
    assert run.config.read_bytes() == before


def test_the_divisor_of_the_config(tool, classifier_run, tmp_path):
    run = classifier_run()
    path = tmp_path / 'table.json'
    options = ['--cfg-options', 'model.divisor=4']
    tool.main([str(run.config), '--out', str(path), *FAST, *options])
    assert json.loads(path.read_text())['divisor'] == 4


@pytest.mark.parametrize(
    ('argv', 'text'),
    [
        (['--threads', '0'], 'threads=0'),
        (['--points', '1'], 'points=1'),
        (['--divisor', '0'], 'divisor=0'),
        (['--device', 'cuda'], "device='cuda'"),
        (['--scope', 'nowhere'], 'nowhere'),
        (['--cfg-options', 'model.divisor=eight'], "divisor='eight'"),
        (['--cfg-options', 'model.divsor=8'], 'did you mean divisor?'),
        (['--cfg-options', 'model.backbone.depth=9'], 'depth=9: expected 6n'),
    ],
)
def test_bad_arguments(
    tool, classifier_run, tmp_path, argv, text, monkeypatch
):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    run = classifier_run()
    path = tmp_path / 'table.json'
    with pytest.raises(SystemExit) as stop:
        tool.main([str(run.config), '--out', str(path), *argv])
    assert text in str(stop.value)
    assert not path.exists()
