# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.engine.models.ground_truth import (
    annotated_sample,
    annotations,
    belongs_to,
    class_sample,
    image_size,
    loss_edge,
    plain_samples,
    proposed_sample,
    spread_boxes,
)


def test_boxes_lie_inside_everywhere():
    boxes = spread_boxes(200, 40, 80)
    assert boxes.shape == (200, 4)
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([80.0, 40.0])).all()
    # Half of the smallest edge is left at the border.
    edges = (boxes[:, 2:] - boxes[:, :2]) / torch.tensor([80.0, 40.0])
    assert edges.min() >= 0.15 - 1e-6
    assert edges.max() <= 0.7 + 1e-6
    # Every tenth of the image is the centre of some.
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor([80.0, 40.0])
    hit = (centres * 5).long().clamp_max(4)
    assert len({tuple(place) for place in hit.tolist()}) == 25


@pytest.mark.parametrize(
    ('inputs', 'size'),
    [
        (torch.rand(1, 3, 4, 5), (4, 5)),
        ([torch.rand(1, 3, 4, 5)] * 2, (4, 5)),
        (dict(a=torch.rand(1, 2, 3, 6, 7)), (6, 7)),
        (torch.rand(1, 9), (1, 1)),
        ([], None),
    ],
)
def test_the_size_of_an_image(inputs, size):
    assert image_size(inputs) == size


def test_what_is_known_of_an_annotated_image():
    pytest.importorskip('mmdet')
    sample = annotated_sample((32, 64), 'cpu')
    sizes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    assert {sample.metainfo[key] for key in sizes} == {(32, 64)}
    objects = sample.gt_instances
    assert len(objects) > 1
    # A mask fills its box, and its pixels have its class.
    for mask, box in zip(objects.masks.masks, objects.bboxes, strict=True):
        rows, columns = mask.nonzero()
        x, y, right, bottom = box.int().tolist()
        assert (columns.min(), rows.min()) == (x, y)
        assert columns.max() in (right, 63)
        assert rows.max() in (bottom, 31)
        assert (sample.gt_sem_seg.sem_seg[0][mask > 0] == 0).all()
    assert (sample.gt_sem_seg.sem_seg == 255).any()
    assert len(sample.ignored_instances) == 0
    # With proposals some detectors would make none of their own.
    assert 'proposals' not in sample
    more = proposed_sample((32, 64), 'cpu')
    assert len(more.proposals) > len(more.gt_instances) == len(objects)


def test_a_detector_is_told_the_size_of_the_image():
    pytest.importorskip('mmdet')
    from mmdet.models.detectors.base import BaseDetector

    class Detector(BaseDetector):
        loss = predict = extract_feat = _forward = None

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

    image = torch.rand(1, 3, 32, 64)
    (sample,) = plain_samples(Detector(), image)
    assert sample.img_shape == (32, 64)
    assert 'gt_instances' not in sample
    first, second, third, *others = annotations(Detector(), image, 2)
    assert [len(s.gt_instances) for s in first[0]] == [4, 4]
    kinds = [more[0][0] for more in (first, second, third)]
    assert ['proposals' in sample for sample in kinds] == [False, False, True]
    # Assigners of detectors without masks take them for tensors.
    masked = ['masks' in sample.gt_instances for sample in kinds]
    assert masked == [True, False, True]
    assert others == [(None,), ()]
    # Five levels of features, of strides up to 128.
    assert loss_edge(Detector()) == 128


def test_a_class_is_one_that_every_head_has():
    pytest.importorskip('mmpretrain')
    assert class_sample((2, 2), 'cpu').gt_label.tolist() == [0]


def test_a_loss_of_a_class_needs_less_than_one_of_boxes():
    models = pytest.importorskip('mmpretrain.models')
    assert loss_edge(models.LinearClsHead(2, 3)) == 64
    assert loss_edge(nn.Conv2d(3, 2, 1)) == 128


def test_a_model_of_nobody_is_offered_everything():
    pytest.importorskip('mmpretrain.structures')
    model = nn.Conv2d(3, 2, 1)
    assert not belongs_to(model, 'mmpretrain')
    assert plain_samples(model, torch.rand(1, 3, 4, 4)) is None
    found = list(annotations(model, torch.rand(2, 3, 4, 4), 2))
    kinds = [type(more[0][0]).__name__ for more in found[:-3]]
    assert 'DataSample' in kinds
    assert torch.equal(found[-3][0], torch.zeros(2, dtype=torch.long))
    assert found[-2:] == [(None,), ()]
