# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
import math

import pytest
import torch
from mmcv.ops import nms
from mmengine.structures import InstanceData
from notes import Notes
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.snapshot import exact
from mmlapp.engine.models.comparison import (
    Check,
    Comparison,
    Probe,
    flat_tensors,
    prediction_error,
    random_probes,
    refuse_differences,
    runnable,
    runs_alike,
)
from mmlapp.engine.models.example import ExampleForward


def test_all_tensors_are_found():
    boxes = InstanceData(bboxes=torch.ones(2, 4), scores=torch.ones(2))
    output = ([torch.zeros(1)], {'a': boxes, 'b': None}, 'text')
    assert [t.numel() for t in flat_tensors(output)] == [1, 8, 2]


@pytest.mark.parametrize(
    ('shape', 'second'),
    [
        ((3, 16, 16), (3, 32, 32)),
        ((3, 224, 224), (3, 320, 320)),
        ((3, 800, 1216), (3, 384, 608)),
    ],
)
def test_random_sizes(shape, second):
    probes = random_probes(shape)
    assert [probe.shape for probe in probes] == [shape, second]


@pytest.mark.parametrize(
    ('error', 'passed'),
    [(0, True), (1e-4, True), (2e-4, False), (math.nan, False)],
)
def test_refusal(error, passed):
    checks = [Check('good', 0.0), Check('random 1x2x3', error)]
    if passed:
        refuse_differences(checks)
        return
    text = r'error above 0.0001 on random 1x2x3: .*Nothing was written'
    with pytest.raises(PruningError, match=text):
        refuse_differences(checks)


PROBES = [Probe('a', (3, 4, 4)), Probe('b', (3, 6, 6))]


def test_predictions_in_any_order():
    """As where two scores are equal; labels count by their share."""
    boxes = torch.rand(5, 4)
    turned = boxes[[0, 1, 3, 2, 4]]
    assert prediction_error([boxes], [turned]) == 0
    assert prediction_error([boxes], [turned * 1.5]) > 0.1
    labels = torch.arange(4)
    assert prediction_error([boxes, labels], [turned, labels.flip(0)]) == 0
    assert prediction_error([labels], [torch.tensor([0, 1, 2, 9])]) == 0.25
    assert prediction_error([boxes], [boxes[1:]]) == math.inf
    assert prediction_error([boxes], []) == math.inf
    assert prediction_error([boxes[:0]], [boxes[:0]]) == 0
    assert math.isnan(prediction_error([boxes], [boxes * math.nan]))


class Modes(nn.Module):
    """A model with predictions by suppression and threshold, and no loss."""

    def __init__(self):
        super().__init__()
        self.conv, self.side = nn.Conv2d(3, 2, 1), nn.Linear(2, 1)
        self.kinds = Notes()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.conv(inputs)
        self.kinds.append(features.dtype)
        if mode == 'predict':
            scores = self.side(features.mean((2, 3)))[:, 0]
            _, best = nms(scores.new_zeros(len(scores), 4), scores, 0.5)
            return [InstanceData(scores=scores[best], labels=scores[best] > 0)]
        if mode == 'loss':
            raise KeyError('gt_label')
        return features


class OfLargeImages(nn.Module):
    """Has features of any image, and outputs of large ones."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def extract_feat(self, inputs):
        return self.conv(inputs)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert mode == 'tensor'
        assert inputs.shape[-1] > 5
        return self.extract_feat(inputs).mean((1, 2, 3))


def test_another_size_is_one_on_which_the_same_runs():
    small, large, larger = (Probe(str(n), (3, n, n)) for n in (4, 6, 8))
    wrong = Probe('wrong', (5, 6, 6))
    model = OfLargeImages()
    assert runs_alike(model, large, larger)
    assert not runs_alike(model, large, small)
    assert not runs_alike(model, large, wrong)


def test_other_modes_are_compared_where_there_are_any():
    torch.manual_seed(0)
    first, probe = Modes(), PROBES[0]
    assert runnable(first, probe.in_mode('loss')) == (
        None,
        "KeyError: 'gt_label'",
    )
    predict, _ = runnable(first, probe.in_mode('predict'))
    assert (predict.name, predict.double) == ('a, predict', True)
    assert first.kinds[-1] == torch.float64
    assert first.conv.weight.dtype == torch.float32
    other = copy.deepcopy(first)
    other.side.bias.data.add_(1)
    checks = Comparison(first, [probe, predict]).check(other)
    assert [check.passed for check in checks] == [True, False]


def test_a_model_that_does_not_run_is_told():
    first = Modes()
    predict, _ = runnable(first, PROBES[0].in_mode('predict'))
    comparison = Comparison(first, [predict])
    first.side = nn.Linear(3, 1)
    with pytest.raises(PruningError, match='does not run on a, predict'):
        comparison.check(first)


class Head(nn.Module):
    """Keeps the two pixels with the highest scores."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, x):
        return self.conv(x)

    def predict(self, x):
        best = self(x).flatten().topk(2)
        return [InstanceData(index=best.indices, scores=best.values)]


class TwoStage(nn.Module):
    """A detector whose second stage reads what the first one chose."""

    def __init__(self):
        super().__init__()
        self.rpn_head = Head()
        self.second = nn.Linear(3, 4)

    def forward(self, image, samples, mode):
        (chosen,) = self.rpn_head.predict(image)
        pixels = image[0].flatten(1).T[chosen.index]
        return self.second(chosen.scores[None] @ pixels)


def test_both_models_get_the_same_proposals():
    torch.manual_seed(0)
    first = TwoStage()
    nn.init.zeros_(first.rpn_head.conv.weight)
    other = copy.deepcopy(first)
    # All scores are equal but for a rounding error, which turns the order.
    other.rpn_head.conv.weight.data.fill_(-1e-6)
    assert not torch.equal(
        first.rpn_head.predict(torch.rand(1, 3, 4, 4))[0].index,
        other.rpn_head.predict(torch.rand(1, 3, 4, 4))[0].index,
    )
    comparison = Comparison(first, PROBES)
    checks = comparison.check(other)
    assert [c.name for c in checks] == ['a', 'b']
    assert all(c.passed for c in checks)
    # Nothing stays behind.
    assert 'predict' not in vars(first.rpn_head)
    assert 'predict' not in vars(other.rpn_head)
    assert not other.rpn_head._forward_hooks


@torch.no_grad()
def test_proposals_have_the_precision_of_the_model():
    model = TwoStage()
    forward = ExampleForward(model, (3, 4, 4))
    single, _ = forward()
    with exact(model):
        double, _ = forward()
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(double, single.double())


@pytest.mark.parametrize('part', ['rpn_head.conv', 'second'])
def test_either_stage_counts(part):
    torch.manual_seed(0)
    first = TwoStage()
    other = copy.deepcopy(first)
    other.get_submodule(part).bias.data.add_(0.1)
    checks = Comparison(first, PROBES).check(other)
    assert [check.passed for check in checks] == [False, False]


def test_the_first_model_may_change_afterwards():
    first = TwoStage()
    other = copy.deepcopy(first)
    comparison = Comparison(first, PROBES)
    first.second.weight.data.zero_()
    assert all(check.passed for check in comparison.check(other))
