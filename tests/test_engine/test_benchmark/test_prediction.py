# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest
from mmengine.config import Config

from mmlapp.engine.benchmark import prediction
from mmlapp.engine.benchmark.prediction import latency_text, setting_here
from mmlapp.engine.latency.setting import Setting


@pytest.fixture
def asked(monkeypatch, row):
    """What would be measured; it takes 1 / 1.6 of the dense time."""
    seen = {}

    def bench(candidates, inputs, settings, rounds):
        seen['names'] = [candidate.name for candidate in candidates]
        seen['images'], seen['settings'] = len(inputs.batch), settings
        return [row(backend=settings[0].backend, speed_up=1.6)]

    monkeypatch.setattr(prediction, 'bench', bench)
    return seen


def change_setting(run, **changes):
    path = run.config.parent / 'table.json'
    data = json.loads(path.read_text())
    data['setting'].update(changes)
    path.write_text(json.dumps(data))


def test_predicted_against_measured(latency_run, asked):
    cfg, run = latency_run
    text = latency_text(cfg, run.checkpoint)
    assert text.startswith('latency: predicted 5')
    assert text.endswith('of the dense network, measured 62.5%')
    assert asked == {
        'names': ['dense', 'slim'],
        'images': 1,
        'settings': [Setting()],
    }


def test_both_networks_are_really_measured(latency_run):
    cfg, run = latency_run
    text = latency_text(cfg, run.checkpoint, rounds=1)
    # With one round median and p90 are the same, and never noisy.
    assert re.fullmatch(r'latency: predicted 5.* network, measured .*%', text)


def test_the_setting_is_that_of_the_table(latency_run, asked):
    cfg, run = latency_run
    there = Setting('onnxruntime', threads=2, batch=3)
    change_setting(run, **there.described())
    text = latency_text(cfg, run.checkpoint)
    assert text.endswith('measured 62.5%')
    assert (asked['images'], asked['settings']) == (3, [there])


def test_a_table_of_another_device(latency_run, asked):
    cfg, run = latency_run
    change_setting(run, device='a phone')
    text = latency_text(cfg, run.checkpoint)
    assert 'something else (device a phone, not ' in text
    assert not asked


def test_a_run_without_such_a_budget(classifier_run, asked):
    run = classifier_run()
    assert latency_text(Config.fromfile(run.config), run.checkpoint) == ''


def test_a_gpu_that_is_here(monkeypatch):
    monkeypatch.setattr(
        prediction, 'device_name', {'cpu': 'one', 'cuda': 'other'}.get
    )
    monkeypatch.setattr(prediction.torch.cuda, 'is_available', lambda: True)
    assert setting_here({'device': 'other'}).device == 'cuda'
    assert setting_here({'device': 'one'}).device == 'cpu'
