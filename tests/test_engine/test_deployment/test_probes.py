# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmlapp.engine.deployment import probes as module
from mmlapp.engine.deployment.probes import find_probes


def found(run, cfg):
    """Names of the probes, and notes."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        probes, notes = find_probes(cfg, run.model, (3, 16, 16))
    return [probe.name for probe in probes], notes


def test_without_real_images_the_reason_is_told(classifier_run):
    run = classifier_run()
    cfg = Config.fromfile(run.config)
    cfg.test_dataloader.dataset.type = 'Nowhere'
    names, notes = found(run, cfg)
    assert names == [
        'random 3x16x16',
        'random 3x32x32',
        'random 3x16x16, predict',
        'random 3x16x16, loss',
    ]
    (note,) = notes
    assert note.startswith(
        'no real images were compared, only random ones: test_dataloader: '
    )
    assert 'Nowhere' in note


def test_a_model_of_one_size_is_compared_at_it(classifier_run, monkeypatch):
    run = classifier_run()
    original = module.random_probes

    def probes(shape):
        first, _ = original(shape)
        (tiny,) = original((5, 32, 32))[:1]  # five channels, which it has not
        return [first, tiny]

    monkeypatch.setattr(module, 'random_probes', probes)
    names, notes = found(run, Config.fromfile(run.config))
    assert names == [
        'random 3x16x16',
        '4 images of test_dataloader',
        '4 images of test_dataloader, predict',
        '4 images of test_dataloader, loss',
        'random 3x16x16, predict',
        'random 3x16x16, loss',
    ]
    assert notes == ['one random size only: no output on random 5x32x32']


def test_a_mode_that_the_model_lacks_is_noted(classifier_run):
    run = classifier_run()

    def predict(*args, **kwargs):
        raise NotImplementedError('no head')

    run.model.predict = predict
    names, notes = found(run, Config.fromfile(run.config))
    assert not [name for name in names if name.endswith('predict')]
    assert notes == [
        f'not compared: {name}, predict: NotImplementedError: no head'
        for name in ('4 images of test_dataloader', 'random 3x16x16')
    ]
