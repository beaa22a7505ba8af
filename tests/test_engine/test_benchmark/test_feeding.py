# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Predictions from outputs that come from elsewhere."""

import pytest
import torch
from mmdet.structures import DetDataSample

from mmlapp.core import PruningError
from mmlapp.engine.benchmark.feeding import Feeding
from mmlapp.engine.export.network import Network
from mmlapp.engine.latency.backends import network_run
from mmlapp.engine.latency.setting import Setting


def network_of(model, size, batch):
    images = torch.rand(batch, 3, size, size)
    return Network.find(model, images[:1]), images


def predict(model, images):
    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    detects = hasattr(model, 'bbox_head')
    samples = (
        [DetDataSample(metainfo=meta) for _ in images] if detects else None
    )
    with torch.no_grad():
        return model(images, samples, mode='predict')


def test_a_classifier_predicts_what_it_is_fed(classifier_run):
    """Three images, two at a time; its own weights are of no use."""
    model = classifier_run().model
    network, buffer = network_of(model, 16, 2)
    run = network_run(network, buffer, Setting())
    images = torch.rand(3, 3, 16, 16)
    expected = predict(model, images)
    with Feeding(network, run, buffer) as fed:
        assert fed is not model
        torch.nn.init.zeros_(fed.head.fc.weight)
        found = predict(fed, images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.pred_score, other.pred_score)
    assert not model._forward_pre_hooks.keys() - model.pruner.hook_ids


def test_a_detector_predicts_boxes_of_what_it_is_fed(detector_run):
    model = detector_run().model
    network, buffer = network_of(model, 64, 1)
    run = network_run(network, buffer, Setting())
    images = torch.rand(2, 3, 64, 64)
    expected = predict(model, images)
    with Feeding(network, run, buffer) as fed:
        torch.nn.init.zeros_(fed.bbox_head.retina_cls.weight)
        found = predict(fed, images)
    for one, other in zip(found, expected, strict=True):
        assert len(one.pred_instances) > 0
        torch.testing.assert_close(
            one.pred_instances.bboxes, other.pred_instances.bboxes
        )


def test_images_of_another_size_are_refused(classifier_run):
    model = classifier_run().model
    network, buffer = network_of(model, 16, 2)
    run = network_run(network, buffer, Setting())
    with (
        pytest.raises(PruningError, match=r'of \[3, 16, 16\] there.* \[3, 8'),
        Feeding(network, run, buffer) as fed,
    ):
        predict(fed, torch.rand(1, 3, 8, 8))


def test_what_predicts_in_another_way_is_refused(classifier_run):
    model = classifier_run().model
    network, buffer = network_of(model, 16, 2)
    with (
        pytest.raises(PruningError, match='predicts without what its Linear'),
        Feeding(network, list, buffer) as fed,
    ):
        fed.extract_feat(buffer)


def test_outputs_that_no_module_returns_are_refused(classifier_run):
    model = classifier_run().model
    network, buffer = network_of(model, 16, 2)
    network.run = lambda net, x: net(x, mode='tensor') + 1
    with pytest.raises(PruningError, match='no module of it returns'):
        Feeding(network, list, buffer)
