# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every method on a residual, a depthwise and a detecting network."""

import copy
from typing import Any

import pytest
import torch
from every_method import EVERY_METHOD
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmlapp.core import Phase, narrow
from mmlapp.engine.models.prunable import prunable_model

SHAPE = 3, 32, 32
STEPS, TARGET = 8, 0.6
CLASSES = dict(type='LinearClsHead', num_classes=10)
NETWORKS: dict[str, dict[str, Any]] = {
    'ResNet-20': dict(
        architecture='ImageClassifier',
        backbone=dict(type='mmlapp.CIFARResNet', depth=20),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(CLASSES, in_channels=64),
    ),
    'MobileNetV2': dict(
        architecture='ImageClassifier',
        backbone=dict(type='MobileNetV2', widen_factor=0.25),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(CLASSES, in_channels=1280),
    ),
    'RetinaNet': dict(
        architecture='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=dict(
            type='ResNet', depth=18, stem_channels=8, base_channels=8
        ),
        neck=dict(
            type='FPN',
            in_channels=[8, 16, 32, 64],
            out_channels=8,
            num_outs=5,
        ),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=2,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
        ),
    ),
}


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    return tree_leaves(model(images, mode='tensor'))


def train(model: Any, steps: range) -> None:
    """Steps on images of their own."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for step in steps:
        dice = torch.Generator().manual_seed(step)
        images = torch.rand(2, *SHAPE, generator=dice).double()
        found = outputs(model, images)
        loss = sum((out - 1).square().mean() for out in found)
        optimizer.zero_grad()
        (loss + model.pruner.loss()).backward()
        optimizer.step()
        model.pruner.step()


# Kernels of MobileNetV2 have one position where widths must match.
@pytest.mark.filterwarnings("ignore:unit='stripes' removes stripes of no")
@pytest.mark.slow
@pytest.mark.parametrize('name', EVERY_METHOD)
@pytest.mark.parametrize('network', NETWORKS)
def test_prunes_to_the_budget_narrows_and_resumes(
    network: str, name: str
) -> None:
    torch.manual_seed(0)
    scope = 'mmdet' if network == 'RetinaNet' else 'mmpretrain'
    with DefaultScope.overwrite_default_scope(scope):
        model: Any = prunable_model(
            **NETWORKS[network], **EVERY_METHOD[name], input_shape=SHAPE
        ).double()
    images = torch.rand(2, *SHAPE).double()
    fresh = copy.deepcopy(model)
    model.pruner.prepare(model, [lambda: outputs(model, images)])
    model.pruner.begin({'flops': TARGET}, STEPS)
    train(model, range(5))
    fresh.load_state_dict(model.state_dict())
    for twin in (model, fresh):
        train(twin, range(5, STEPS))
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key

    pruner = model.pruner
    assert pruner.phase == Phase.FINISHED
    assert TARGET - 0.02 < pruner.ratios()['flops'] <= TARGET
    model.eval()
    with torch.no_grad():
        expected = outputs(model, images)
        narrow(model, pruner.plan())
        torch.testing.assert_close(outputs(model, images), expected)
