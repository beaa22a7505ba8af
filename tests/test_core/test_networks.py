# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks as they are used: counts by fvcore, masked against narrowed."""

import copy
import warnings
from itertools import product

import pytest
import torch
import torchvision
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.models import CIFARVGG, CIFARResNet


class Classifier(nn.Module):
    def __init__(self, backbone, channels):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


class Pyramid(nn.Module):
    """Joins the maps of a detector's backbone as its neck reads them."""

    def __init__(self, backbone, channels):
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(c, 16, 1) for c in channels)

    def forward(self, x):
        maps = zip(self.lateral, self.backbone(x), strict=True)
        return torch.cat([conv(m).flatten(1) for conv, m in maps], dim=1)


def retinanet_backbone():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import mmdet.models  # noqa: F401
    with DefaultScope.overwrite_default_scope('mmdet'):
        backbone = MODELS.build(
            dict(
                type='ResNet',
                depth=50,
                num_stages=4,
                out_indices=(0, 1, 2, 3),
                frozen_stages=1,
                norm_cfg=dict(type='BN', requires_grad=True),
                norm_eval=True,
                style='pytorch',
            )
        )
    return Pyramid(backbone, (256, 512, 1024, 2048))


NETWORKS = {
    'resnet20': (lambda: Classifier(CIFARResNet(20), 64), 32),
    'vgg16': (lambda: Classifier(CIFARVGG(), 512), 32),
    'resnet50': (torchvision.models.resnet50, 32),
    'mobilenet_v2': (torchvision.models.mobilenet_v2, 32),
    'retinanet_r50': (retinanet_backbone, 32),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_counts_and_outputs(name, fvcore_macs, randomise, mask_randomly):
    """Within 0.1 % of fvcore; masked and deployed within 1e-4."""
    build, side = NETWORKS[name]
    model = randomise(build()).eval()
    x = torch.randn(1, 3, side, side)
    dense = fvcore_macs(model, x)
    pruner = attach(model, x)
    assert pruner.cost('flops').dense == pytest.approx(dense, rel=1e-3)
    mask_randomly(pruner, keep=0.6)
    with torch.no_grad():
        masked = model(x)
    plan = pruner.plan()
    slim = narrow(model, plan)
    with torch.no_grad():
        narrowed = slim(x)
    error = (narrowed - masked).abs().max() / masked.abs().max()
    assert error < 1e-4
    assert masked.std() > 1e-6
    assert plan.costs['flops']['pruned'] == pytest.approx(
        fvcore_macs(slim, x), rel=1e-3
    )


TARGETS = (0.7, 0.25)
KINDS = ('depthwise', 'pointwise', 'grouped')
CASES = [(None, 'channels'), *product(KINDS, ('channels', 'filters'))]
BUDGETED = {
    'resnet20': (lambda: Classifier(CIFARResNet(20), 64), 32),
    'resnet18': (torchvision.models.resnet18, 32),
}


def budgeted():
    """All cases; beside bypasses the larger of two residual nets is slow."""
    for name, (bypass, unit) in product(BUDGETED, CASES):
        slow = name == 'resnet18' and bypass is not None
        marks = pytest.mark.slow if slow else ()
        yield pytest.param(name, bypass, unit, marks=marks)


@pytest.mark.parametrize(('name', 'bypass', 'unit'), list(budgeted()))
def test_every_budget_is_met(name, bypass, unit, fvcore_macs, randomise):
    """By fvcore: never above the target, at most one point below it."""
    build, side = BUDGETED[name]
    model = randomise(build()).eval()
    x = torch.randn(1, 3, side, side)
    dense = fvcore_macs(model, x)
    pruner = attach(model, x, bypass=bypass, unit=unit)
    for target in TARGETS:
        trial = copy.deepcopy(model)
        trial.pruner.begin({'flops': target}, steps=1)
        with torch.no_grad():  # groups that got unequally far
            trial.pruner.method.threshold.add_(torch.rand(len(pruner.groups)))
        trial.pruner.finish()
        plan = trial.pruner.plan()
        with torch.no_grad():
            masked = trial(x)
            narrowed = narrow(trial, plan)(x)
        assert (narrowed - masked).abs().max() < 1e-4 * masked.abs().max()
        found = fvcore_macs(trial, x) / dense
        assert target - 0.01 <= found <= target
        assert found == pytest.approx(
            plan.costs['flops']['pruned'] / dense, rel=1e-3
        )
