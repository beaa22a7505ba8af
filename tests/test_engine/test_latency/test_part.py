# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from mmengine.config import Config
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.latency.part import (
    check_batch,
    one_image,
    origin_of_shape,
    subject_of,
)
from mmlapp.engine.latency.subject import Procedure, kinds_of


class Classifier(nn.Module):
    """With the forward of MMEngine's models."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.conv(inputs)


@pytest.mark.parametrize(
    ('shape', 'text'),
    [
        ({'a': (3, 8, 8), 'b': (3, 8, 8)}, 'input_shape=a 3x8x8, b 3x8x8'),
        ((3, 8), 'input_shape=3x8'),
    ],
)
def test_models_of_other_inputs(shape, text):
    with pytest.raises(PruningError, match=text):
        one_image(Classifier(), shape)


def test_one_image_of_a_shape():
    assert tuple(one_image(Classifier(), (3, 8, 9)).shape) == (1, 3, 8, 9)


def config_of(run):
    return Config.fromfile(run.config)


def test_the_dense_model_of_a_config(classifier_run):
    subject = subject_of(config_of(classifier_run()))
    assert subject.name == 'ImageClassifier'
    assert not hasattr(subject.model, 'pruner')
    assert tuple(subject.images.shape) == (1, 3, 16, 16)
    check_batch(subject, 3)
    logits = subject.part(subject.model)(subject.images)
    assert tuple(logits.shape) == (1, 10)
    # The linear layer is measured, what the scope leaves alone as it is.
    found = kinds_of(subject, Procedure(points=2))
    assert found[-1].names == ('head.fc',)


def test_settings_instead_of_those_of_the_config(classifier_run):
    cfg = config_of(classifier_run())
    subject = subject_of(cfg, {'input_shape': (3, 24, 24), 'scope': 'head'})
    assert tuple(subject.images.shape) == (1, 3, 24, 24)
    assert not subject.analysis.groups.prunable
    with pytest.raises(PruningError, match='scope'):
        subject_of(cfg, {'scope': 'nowhere'})


def test_the_size_of_an_image_has_an_origin(classifier_run):
    cfg = config_of(classifier_run())
    assert origin_of_shape(cfg) == 'at which the budget of the run is counted'
    assert origin_of_shape(cfg, {'input_shape': (3, 9, 9)}) == 'as you said'
    plain = Config(dict(model=dict(type='ImageClassifier')))
    assert 'the config says none' in origin_of_shape(plain)


def test_a_detector_without_its_boxes(detector_run):
    subject = subject_of(config_of(detector_run()))
    scores, boxes = subject.part(subject.model)(subject.images)
    assert len(scores) == len(boxes) == 5  # levels


class OneImage(Classifier):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert len(inputs) == 1
        return super().forward(inputs)


def test_a_model_of_single_images(classifier_run):
    model = OneImage().eval()
    subject = replace(
        subject_of(config_of(classifier_run())),
        name='OneImage',
        model=model,
        part=lambda other: other,
    )
    with pytest.raises(PruningError, match=r'batch=2: OneImage does not'):
        check_batch(subject, 2)
