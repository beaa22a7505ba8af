# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest
from mmengine.config import Config

from mmlapp.engine.benchmark import prediction
from mmlapp.engine.benchmark.prediction import latency_text, setting_here
from mmlapp.engine.deployment.deploy import deploy
from mmlapp.engine.latency.setting import Setting


@pytest.fixture
def asked(monkeypatch, row):
    """What would be measured; it takes 1 / 1.6 of the dense time."""
    seen = {}

    def bench(candidates, inputs, settings, rounds):
        seen['names'] = [candidate.name for candidate in candidates]
        slim = candidates[-1].network.state_dict()
        seen['bypasses'] = sum('.bypass.' in name for name in slim)
        seen['images'], seen['settings'] = len(inputs.batch), settings
        return [row(backend=settings[0].backend, speed_up=1.6)]

    monkeypatch.setattr(prediction, 'bench', bench)
    return seen


@pytest.fixture
def written(latency_run, tmp_path):
    """What was deployed of the run."""
    cfg, run = latency_run
    return deploy(cfg, run.checkpoint, tmp_path / 'out')


def change_setting(run, **changes):
    path = run.config.parent / 'table.json'
    data = json.loads(path.read_text())
    data['setting'].update(changes)
    path.write_text(json.dumps(data))


def test_predicted_against_measured(latency_run, written, asked):
    cfg, run = latency_run
    text = latency_text(cfg, run.checkpoint, written)
    assert text.startswith('latency: predicted 5')
    assert text.endswith('of the dense network, measured 62.5%')
    assert asked == {
        'names': ['dense', 'slim'],
        'bypasses': 0,
        'images': 1,
        'settings': [Setting()],
    }


def test_both_networks_are_really_measured(latency_run, written):
    cfg, run = latency_run
    text = latency_text(cfg, run.checkpoint, written, rounds=1)
    # With one round median and p90 are the same, and never noisy.
    assert re.fullmatch(r'latency: predicted 5.* network, measured .*%', text)


def test_the_setting_is_that_of_the_table(latency_run, written, asked):
    cfg, run = latency_run
    there = Setting('onnxruntime', threads=2, batch=3)
    change_setting(run, **there.described())
    text = latency_text(cfg, run.checkpoint, written)
    assert text.endswith('measured 62.5%')
    assert (asked['images'], asked['settings']) == (3, [there])


def test_a_table_of_another_device(latency_run, written, asked):
    cfg, run = latency_run
    change_setting(run, device='a phone')
    text = latency_text(cfg, run.checkpoint, written)
    assert 'something else (device a phone, not ' in text
    assert not asked


def test_a_run_without_such_a_budget(classifier_run, tmp_path, asked):
    run = classifier_run()
    cfg = Config.fromfile(run.config)
    written = deploy(cfg, run.checkpoint, tmp_path / 'out')
    assert latency_text(cfg, run.checkpoint, written) == ''


@pytest.mark.parametrize('merge', [False, True])
def test_what_was_written_is_measured(
    make_latency_run, tmp_path, asked, merge
):
    """Without the bypasses that were merged, which the budget counts."""
    cfg, run = make_latency_run(bypass='depthwise')
    written = deploy(cfg, run.checkpoint, tmp_path / 'out', merge=merge)
    assert 'measured' in latency_text(cfg, run.checkpoint, written)
    assert bool(asked['bypasses']) != merge
    note = 'latency still counts the bypasses that were merged'
    assert (note in written.notes) == merge


def test_free_bypasses_are_in_no_prediction(make_latency_run, tmp_path, asked):
    cfg, run = make_latency_run(bypass='repvgg')
    written = deploy(cfg, run.checkpoint, tmp_path / 'out', merge=True)
    assert 'measured' in latency_text(cfg, run.checkpoint, written)
    assert not asked['bypasses']
    assert not any('still counts' in note for note in written.notes)


def test_a_gpu_that_is_here(monkeypatch):
    monkeypatch.setattr(
        prediction, 'device_name', {'cpu': 'one', 'cuda': 'other'}.get
    )
    monkeypatch.setattr(prediction.torch.cuda, 'is_available', lambda: True)
    assert setting_here({'device': 'other'}).device == 'cuda'
    assert setting_here({'device': 'one'}).device == 'cpu'
