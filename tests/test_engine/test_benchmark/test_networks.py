# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from mmengine.config import Config

from mmlapp.core import PruningError
from mmlapp.engine.benchmark.networks import networks_of
from mmlapp.engine.deployment.deploy import deploy
from mmlapp.engine.deployment.recipe import deployed_config
from mmlapp.engine.latency.part import subject_of
from mmlapp.engine.latency.setting import Setting


def names(found):
    return [candidate.name for candidate in found.candidates]


def width(candidate):
    """Inner width of the first block of a small network."""
    return candidate.network.model.backbone.layer1[0].conv1.out_channels


def test_a_pruning_run(classifier_run):
    """Real images, three networks, of which two compute the same."""
    run = classifier_run()
    found = networks_of(Config.fromfile(run.config), run.checkpoint, batch=3)
    assert names(found) == ['dense', 'masked', 'slim']
    dense, masked, slim = found.candidates
    assert width(slim) < width(dense) == width(masked)
    assert (slim.like, masked.backends) == ('masked', ('torch',))
    assert tuple(found.inputs.batch.shape) == (3, 3, 16, 16)
    assert len(found.inputs.real) == 6
    with torch.no_grad():
        outputs = [c.network(found.inputs.batch) for c in (masked, slim)]
    torch.testing.assert_close(*outputs)
    assert any('random weights' in note for note in found.notes)
    assert found.prediction is None


def test_bypasses_that_are_free_are_measured_as_they_are_deployed(
    classifier_run,
):
    run = classifier_run(bypass='repvgg')
    found = networks_of(Config.fromfile(run.config), run.checkpoint)
    _, masked, slim = found.candidates
    branches = [
        sum(name.endswith('.bypass') for name, _ in each.named_modules())
        for each in (masked.network, slim.network)
    ]
    assert branches[0] > branches[1] == 0
    assert any('are merged' in note for note in found.notes)


def test_a_deployed_model(classifier_run, tmp_path):
    run = classifier_run()
    out = deploy(run.config, run.checkpoint, tmp_path / 'deployed')
    found = networks_of(Config.fromfile(out.config), out.checkpoint)
    assert names(found) == ['dense', 'slim']
    assert width(found.candidates[1]) < width(found.candidates[0])
    assert tuple(found.inputs.batch.shape) == (1, 3, 16, 16)
    assert len(found.inputs.real) == 8


def test_a_deployed_model_is_measured_at_the_size_of_its_budget(
    classifier_run, tmp_path
):
    """Its test data may be of another one."""
    run = classifier_run()
    cfg = Config.fromfile(run.config)
    cfg.model.input_shape = (3, 24, 24)
    cfg = deployed_config(cfg, run.model.pruner.plan())
    found = networks_of(cfg)
    assert tuple(found.inputs.batch.shape) == (1, 3, 24, 24)
    assert any('they are [3, 16, 16]' in note for note in found.notes)
    assert tuple(subject_of(cfg).images.shape) == (1, 3, 24, 24)
    del cfg.model['input_shape']
    found = networks_of(cfg)
    assert tuple(found.inputs.batch.shape) == (1, 3, 16, 16)


def test_a_latency_budget_tells_its_prediction(latency_run):
    cfg, run = latency_run
    found = networks_of(cfg, run.checkpoint)
    # In proportion to FLOPs, of which about a half is left.
    assert found.prediction.ratio == pytest.approx(0.5, abs=0.02)
    assert found.prediction.setting == Setting().described()


def test_a_table_of_images_of_another_size_predicts_nothing(latency_run):
    cfg, run = latency_run
    path = run.config.parent / 'table.json'
    data = json.loads(path.read_text())
    data['setting']['input_shape'] = [3, 16, 16]
    path.write_text(json.dumps(data))
    assert networks_of(cfg, run.checkpoint).prediction is not None
    found = networks_of(cfg, run.checkpoint, input_shape=[3, 32, 32])
    assert found.prediction is None
    assert any('table is of [3, 16, 16]' in note for note in found.notes)


def test_a_detector(detector_run):
    run = detector_run()
    found = networks_of(Config.fromfile(run.config), run.checkpoint, batch=2)
    assert names(found) == ['dense', 'masked', 'slim']
    assert not len(found.inputs.real)
    assert any('random images' in note for note in found.notes)
    with torch.no_grad():
        scores, boxes = found.candidates[2].network(found.inputs.batch)
    assert len(scores) == len(boxes) == 5  # levels


def test_a_run_without_its_checkpoint(classifier_run):
    cfg = Config.fromfile(classifier_run().config)
    with pytest.raises(PruningError, match=r'checkpoint: .*after its pruning'):
        networks_of(cfg)


def test_weights_of_the_dense_model(classifier_run, tmp_path):
    run = classifier_run()
    cfg = Config.fromfile(run.config)
    plain = subject_of(cfg).model
    path = tmp_path / 'dense.pth'
    torch.save({'state_dict': plain.state_dict()}, path)
    found = networks_of(cfg, run.checkpoint, dense=path)
    loaded = found.candidates[0].network.model.state_dict()
    torch.testing.assert_close(dict(loaded), dict(plain.state_dict()))
    assert not any('random weights' in note for note in found.notes)
    with pytest.raises(PruningError, match='dense='):
        networks_of(cfg, run.checkpoint, dense=run.checkpoint)


def test_a_plain_config(classifier_run):
    cfg = Config.fromfile(classifier_run().config)
    inner = {
        k: v for k, v in cfg.model.items() if k in ('backbone', 'neck', 'head')
    }
    cfg._cfg_dict.pop('model')
    cfg.model = dict(type='ImageClassifier', **inner)
    found = networks_of(cfg, input_shape=(3, 16, 16))
    assert names(found) == ['dense']
    with pytest.raises(PruningError, match='--dense'):
        networks_of(cfg, 'some.pth', input_shape=(3, 16, 16))
