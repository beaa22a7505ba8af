# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.latency.measure import Plan, kinds_of
from mmlapp.engine.latency.part import check_batch, network_part, subject_of


class Classifier(nn.Module):
    """With the forward of MMEngine's models."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert mode == 'tensor'
        y = self.conv(inputs)
        return y, [{'b': 2 * y}, None]


def test_all_tensors_of_other_images():
    model = Classifier().eval()
    images = torch.rand(5, 3, 8, 8)
    found = network_part(model, (3, 8, 8))(images)
    expected = model.conv(images)
    torch.testing.assert_close(found, (expected, 2 * expected))


class TwoInputs(Classifier):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(inputs['a'] + inputs['b'])


def test_models_of_several_inputs():
    shape = {'a': (3, 8, 8), 'b': (3, 8, 8)}
    with pytest.raises(PruningError, match='input_shape=a 3x8x8, b 3x8x8'):
        network_part(TwoInputs().eval(), shape)


def config_of(run):
    return Config.fromfile(run.config)


def test_the_dense_model_of_a_config(classifier_run):
    subject = subject_of(config_of(classifier_run()))
    assert subject.name == 'ImageClassifier'
    assert not hasattr(subject.model, 'pruner')
    assert tuple(subject.images.shape) == (1, 3, 16, 16)
    check_batch(subject, 3)
    (logits,) = subject.part(subject.model)(subject.images)
    assert tuple(logits.shape) == (1, 10)
    # The linear layer is measured, what the scope leaves alone as it is.
    found = kinds_of(subject, Plan(points=2))
    assert found[-1].names == ('head.fc',)


def test_settings_instead_of_those_of_the_config(classifier_run):
    cfg = config_of(classifier_run())
    subject = subject_of(cfg, {'input_shape': (3, 24, 24), 'scope': 'head'})
    assert tuple(subject.images.shape) == (1, 3, 24, 24)
    assert not subject.analysis.groups.prunable
    with pytest.raises(PruningError, match='scope'):
        subject_of(cfg, {'scope': 'nowhere'})


def test_a_detector_without_its_boxes(detector_run):
    subject = subject_of(config_of(detector_run()))
    found = subject.part(subject.model)(subject.images)
    # Scores and boxes of five levels.
    assert len(found) == 10


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
        part=lambda other: network_part(other, (3, 8, 8)),
    )
    with pytest.raises(PruningError, match=r'batch=2: OneImage does not'):
        check_batch(subject, 2)
