# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from contextlib import nullcontext

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmlapp.engine.models.few_samples import FEW
from mmlapp.engine.models.ground_truth import spread_boxes
from mmlapp.engine.models.proposals import (
    chosen_proposals,
    few_proposals,
    spread,
)


class Head(nn.Module):
    """Scores every pixel, and proposes the best ones."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return [self.conv(image), self.conv(image) * 2]

    def predict(self, image, count=2):
        return self.predict_by_feat(self(image)[0], count=count)

    def predict_by_feat(self, scores, count):
        best = scores.flatten().topk(count)
        return [InstanceData(index=best.indices, scores=best.values)]


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.rpn_head = Head()


@pytest.fixture
def head():
    torch.manual_seed(0)
    return Detector().eval()


@pytest.fixture
def image():
    return torch.rand(1, 3, 4, 4)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def same(proposals):
    return proposals


def is_untouched(model):
    head = model.rpn_head
    return 'predict' not in vars(head) and not head._forward_hooks


def test_a_model_without_proposals_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 1, 1))
    before = dict(vars(model))
    with chosen_proposals(model, same) as raw:
        assert vars(model) == before
        model(torch.rand(1, 3, 4, 4))
    assert raw == []


def test_the_choice_is_returned(head, image):
    expected = head.rpn_head.predict(image, count=3)[0]
    told = []
    mine = [InstanceData(index=torch.tensor([5]), scores=torch.tensor([0.5]))]

    def choose(proposals):
        told.extend(proposals)
        return mine

    with chosen_proposals(head, choose):
        found = head.rpn_head.predict(image, count=3)
    (proposals,) = told
    assert torch.equal(proposals.index, expected.index)
    assert torch.equal(proposals.scores, expected.scores)
    assert found[0].index.tolist() == [5]
    # The model may change what it gets: others get it as it was.
    found[0].scores.zero_()
    assert mine[0].scores.tolist() == [0.5]


def test_raw_outputs_come_as_they_are_made(head, image):
    with chosen_proposals(head, same) as raw:
        head.rpn_head.predict(image)
        assert [tensor.shape for tensor in raw] == [(1, 1, 4, 4)] * 2
        torch.testing.assert_close(raw[1], raw[0] * 2)
        head.rpn_head.predict(image)
        assert len(raw) == 4


@pytest.mark.parametrize('error', [None, ZeroDivisionError])
def test_nothing_stays_behind(head, image, error):
    expected = pytest.raises(error) if error else nullcontext()
    with expected, chosen_proposals(head, same):
        assert not is_untouched(head)
        if error:
            raise error
    assert is_untouched(head)
    head.rpn_head.predict(image)


def test_inside_of_another_choice_it_does_nothing(head, image):
    mine = [InstanceData(index=torch.tensor([5]))]
    with chosen_proposals(head, lambda proposals: mine) as outer:
        with chosen_proposals(head, lambda proposals: 1 / 0) as inner:
            found = head.rpn_head.predict(image)
        # The outer one still holds.
        assert found[0].index.tolist() == [5]
        head.rpn_head.predict(image)
        assert (len(outer), inner) == (4, [])
    assert is_untouched(head)


def test_what_goes_on_has_the_precision_of_the_model(head, image):
    """Though others were chosen in float32; indices stay whole."""
    chosen = head.rpn_head.predict(image)
    head.double()
    with chosen_proposals(head, lambda proposals: chosen):
        (found,) = head.rpn_head.predict(image.double())
    assert (found.scores.dtype, found.index.dtype) == (
        torch.float64,
        torch.int64,
    )
    torch.testing.assert_close(found.scores, chosen[0].scores.double())


def test_a_head_of_another_form(head, image):
    """Without ``predict_by_feat``, as some are."""

    class Other(nn.Module):
        def predict(self, image):
            return [InstanceData(scores=image.flatten())]

    head.rpn_head = Other()
    with chosen_proposals(head, lambda p: [p[0][:2]]) as raw:
        (found,) = head.rpn_head.predict(image)
    assert len(found) == 2
    assert raw == []
    assert is_untouched(head)


class Sample:
    img_shape = (40, 80)


def test_proposals_are_spread_over_their_images():
    """As many as there are, each over its own image, in its precision."""
    boxes = torch.zeros(6, 4, dtype=torch.float64)
    images = [
        InstanceData(bboxes=boxes, scores=torch.rand(6)),
        InstanceData(scores=torch.rand(3)),
    ]
    scores = images[0].scores.clone()
    first, second = spread(images, (torch.rand(1), [Sample(), Sample()]))
    assert first.bboxes.dtype == torch.float64
    torch.testing.assert_close(first.bboxes, spread_boxes(6, 40, 80).double())
    assert torch.equal(first.scores, scores)
    assert 'bboxes' not in second
    unmoved = [InstanceData(bboxes=boxes)]
    assert torch.equal(spread(unmoved, ())[0].bboxes, boxes)


def test_few_of_each_image_are_the_first():
    scores = torch.linspace(1, 0, 3 * FEW)
    images = [InstanceData(scores=scores), InstanceData(scores=scores[:2])]
    first, second = few_proposals(images)
    assert torch.equal(first.scores, scores[:FEW])
    assert torch.equal(second.scores, scores[:2])
