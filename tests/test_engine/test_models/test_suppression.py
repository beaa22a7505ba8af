# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmcv.ops import batched_nms, nms, nms_match, soft_nms
from mmengine.model import BaseModel
from torch import nn

from mmlapp.core import analyse
from mmlapp.engine.models.example import ExampleForward
from mmlapp.engine.models.ground_truth import spread_boxes
from mmlapp.engine.models.suppression import suppression_in_float64

BOXES, SCORES = spread_boxes(9, 8, 8), torch.linspace(0.9, 0.1, 9)


def match(boxes, scores, threshold):
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    return torch.cat(nms_match(dets, threshold))


@pytest.mark.parametrize('suppress', [nms, soft_nms, match])
def test_float64_gives_what_float32_does(suppress):
    boxes, scores = BOXES.double(), SCORES.double()
    with pytest.raises(RuntimeError, match='Float but found Double'):
        suppress(boxes, scores, 0.3)
    with suppression_in_float64():
        found = suppress(boxes, scores, 0.3)
    expected = suppress(BOXES, SCORES, 0.3)
    if isinstance(found, torch.Tensor):
        found, expected = [found], [expected]
    assert found[0].dtype == torch.float64 or len(found) == 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.to(b.dtype), b)
    # What it read was not rounded.
    assert torch.equal(scores, SCORES.double())


def test_the_kernels_come_back():
    with pytest.raises(ZeroDivisionError), suppression_in_float64():
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match='Float but found Double'):
        nms(BOXES.double(), SCORES.double(), 0.3)


class Chooser(BaseModel):
    """Reads the pixels whose boxes are left, as queries of a decoder."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 1)
        self.score, self.head = nn.Conv2d(64, 1, 1), nn.Linear(64, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """Returns a point for every box that is left, best first."""
        features = self.second(self.first(inputs).relu()).relu()
        # [pixels, channels]
        pixels = features.flatten(2)[0].T
        # As inexact as behind many layers.
        scores = (self.score(features) + 1000).flatten()
        boxes = spread_boxes(len(scores), *inputs.shape[2:]).to(scores)
        _, kept = batched_nms(
            boxes, scores, torch.arange(len(scores)), {'iou_threshold': 0.8}
        )
        return self.head(pixels[kept]) + boxes[kept, :2]


def test_what_is_chosen_by_close_scores_can_be_checked():
    """In float32 the masked network ranks other than the narrowed one."""
    model = Chooser().eval()
    found = analyse(model, ExampleForward(model, (3, 48, 48)))
    assert [group.size for group in found.groups.prunable] == [64, 64]
