# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whole detectors: two steps masked, narrowed, two steps more."""

import warnings

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from three_networks import NETWORKS
from zoo import Entry
from zoo.measure import build

from mmlapp.core import analyse, attach, narrow
from mmlapp.engine.models.example import ExampleForward

SHAPE = (3, 128, 128)
DETECTORS = [
    'retinanet/retinanet_r50_fpn_1x_coco',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'atss/atss_r50_fpn_1x_coco',
    'gfl/gfl_r50_fpn_1x_coco',
    'yolox/yolox_s_8xb8-300e_coco',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco',
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco',
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
    'centernet/centernet_r18_8xb16-crop512-140e_coco',
    'detr/detr_r18_8xb2-500e_coco',
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
]
# SSD needs maps of more than one pixel at its last level.
SHAPES = {'ssd': (3, 320, 320)}
# Most of its FLOPs at this size are those of the mask head.
TARGETS = {'mask_rcnn': 0.95}


def losses_of(model, shape):
    from mmdet.testing import demo_mm_inputs

    data = demo_mm_inputs(
        2,
        [shape, shape],
        num_items=[3, 2],
        num_classes=4,
        with_mask=getattr(model, 'with_mask', False),
    )
    # Without augmentation of batches, which asks the Runner for the step.
    data = model.data_preprocessor(data, False)
    return model.parse_losses(model(**data, mode='loss'))[0]


def steps(model, shape, pruner=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(2):
        loss = losses_of(model, shape)
        if pruner is not None:
            loss = loss + pruner.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()
        yield float(loss)


@pytest.mark.slow
@pytest.mark.parametrize('name', DETECTORS)
def test_training_goes_on_narrowed(name):
    family = name.partition('/')[0]
    shape, target = SHAPES.get(family, SHAPE), TARGETS.get(family, 0.8)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import mmdet.models  # noqa: F401

        model = build(Entry(f'mmdet::{name}.py'))
        if hasattr(model, 'level_embed'):  # made as memory as it was
            torch.nn.init.normal_(model.level_embed)
        pruner = attach(model, ExampleForward(model, shape), scope='backbone')
        model.train()
        pruner.begin({'flops': target}, steps=2)
        masked = list(steps(model, shape, pruner))
        assert pruner.ratios()['flops'] <= target
        plan = pruner.plan()
        narrow(model, plan)
        narrowed = list(steps(model, shape))
    assert all(torch.tensor([*masked, *narrowed]).isfinite())
    # Some groups may stay whole: six tensors belong to each of ResNet-18.
    assert len(plan.slices) > 20
    sizes = dict(model.named_parameters())
    for key, dims in plan.slices.items():
        for dim, kept in dims.items():
            if key in sizes:
                assert sizes[key].shape[dim] == len(kept.index)
    grads = [p.grad for n, p in sizes.items() if n in plan.slices]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)


def test_a_detector_is_tried_on_a_corner():
    """With samples that tell its size; what is counted is the whole."""
    config = dict(NETWORKS['RetinaNet'])
    config['type'] = config.pop('architecture')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config)
    edges = []
    model.backbone.register_forward_pre_hook(
        lambda module, args: edges.append(args[0].shape[-1])
    )
    example = ExampleForward(model, (3, 160, 160))
    edges.clear()
    found = analyse(model, example)
    assert len(found.groups.prunable) > 5
    assert found.trace.calls[0].outputs == (1, 8, 80, 80)
    # Followed on the whole, tried on the corner alone.
    assert edges[0] == 160
    assert set(edges[1:]) == {64}
    assert len(edges) >= 5
