# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.models.architecture import (
    build_architecture,
    example_forward,
    example_inputs,
)

SETTINGS = dict(
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
WHOLE = dict(type='ImageClassifier', **SETTINGS)
TOP, OWN = (dict(mean=[x] * 3, std=[1.0] * 3) for x in (5.0, 7.0))


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def mean_of(model):
    return model.data_preprocessor.mean.flatten().tolist()


@pytest.mark.parametrize(
    ('architecture', 'settings'), [('ImageClassifier', SETTINGS), (WHOLE, {})]
)
def test_both_forms_build_the_same(architecture, settings):
    """They are not changed, and the top level's preprocessor comes second."""
    before = copy.deepcopy((architecture, settings))
    model = build_architecture(architecture, settings, TOP)
    assert type(model).__name__ == 'ImageClassifier'
    assert repr(model.backbone) == repr(
        build_architecture(WHOLE, {}, None).backbone
    )
    assert mean_of(model) == [5.0] * 3
    assert (architecture, settings) == before


def test_a_preprocessor_inside_comes_first():
    flat = {**SETTINGS, 'data_preprocessor': OWN}
    whole = {**WHOLE, 'data_preprocessor': OWN}
    assert mean_of(build_architecture('ImageClassifier', flat, TOP)) == [7] * 3
    assert mean_of(build_architecture(whole, {}, TOP)) == [7] * 3
    assert set(OWN) == {'mean', 'std'}  # mmpretrain adds to it


def test_arguments_go_with_a_type_alone():
    text = r"arguments \['a', 'head'\]: architecture is a whole config"
    with pytest.raises(PruningError, match=text):
        build_architecture(WHOLE, dict(head={}, a=1), None)


class Plain(nn.Module):
    """Returns what it was given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, image, samples, mode):
        return self.conv(image), samples, mode


def test_the_image_is_always_the_same():
    model = Plain()
    image, samples = example_inputs(model, [3, 4, 5])
    assert samples is None
    assert image.shape == (1, 3, 4, 5)
    assert 0 <= image.min() < image.max() <= 1
    state = torch.get_rng_state()
    assert torch.equal(example_inputs(model, (3, 4, 5))[0], image)
    # Others' random numbers go on.
    assert torch.equal(torch.get_rng_state(), state)


def test_the_image_lies_where_the_weights_do():
    image, _ = example_inputs(Plain().to('meta'), (3, 4, 5))
    assert image.device.type == 'meta'


@pytest.mark.parametrize(
    'shape', [(3, 8), (3, 8, 8, 8), (3, 0, 8), (3, 8, -8), ()]
)
@pytest.mark.parametrize('function', [example_inputs, example_forward])
def test_a_shape_is_three_positive_numbers(function, shape):
    with pytest.raises(PruningError, match=r'input_shape=.*: expected chan'):
        function(Plain(), shape)


def test_a_forward_without_losses():
    model = Plain()
    image, _ = example_inputs(model, (3, 4, 5))
    ((output, samples, mode),) = example_forward(model, (3, 4, 5))()
    assert torch.equal(output, model.conv(image))
    assert (samples, mode) == (None, 'tensor')


def test_a_model_that_does_not_run_says_on_what():
    forward = example_forward(Plain(), (1, 4, 5))
    text = r'input_shape=\(1, 4, 5\) \(RuntimeError: .*Set input_shape to'
    with pytest.raises(PruningError, match=text) as info:
        forward()
    assert isinstance(info.value.__cause__, RuntimeError)


def test_a_detector_is_told_the_size_of_the_image():
    from mmdet.models.detectors.base import BaseDetector

    class Detector(BaseDetector):
        loss = predict = extract_feat = _forward = None

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

    _, samples = example_inputs(Detector(), (3, 32, 64))
    (sample,) = samples
    sizes = {key: sample.metainfo[key] for key in sample.metainfo_keys()}
    assert sizes.pop('scale_factor') == (1.0, 1.0)
    assert set(sizes) == {
        'img_shape',
        'ori_shape',
        'pad_shape',
        'batch_input_shape',
    }
    assert set(sizes.values()) == {(32, 64)}


class Head(nn.Module):
    """Chooses at random."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return self.conv(image)

    def predict(self, image):
        return [InstanceData(scores=self(image).flatten() * torch.rand(()))]


class TwoStage(Plain):
    def __init__(self):
        super().__init__()
        self.rpn_head = Head()

    def forward(self, image, samples, mode):
        return self.rpn_head.predict(image)[0].scores


@torch.no_grad()
def test_every_call_gets_the_proposals_of_the_first():
    torch.manual_seed(0)
    model = TwoStage()
    image, _ = example_inputs(model, (3, 4, 4))
    forward = example_forward(model, (3, 4, 4))
    (first, raw), (second, _) = forward(), forward()
    assert torch.equal(first, second)
    # What they are made from is an output, too.
    assert torch.equal(raw, model.rpn_head.conv(image))
    other, _ = example_forward(model, (3, 4, 4))()
    assert not torch.equal(first, other)
