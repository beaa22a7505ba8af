# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Removal by brute force, and what is said to predict it."""

import copy

import pytest
import torch
from accuracy.build import EXAMPLE, SCOPE
from accuracy.network import classifier
from harm import correlations, gradients, loss_of, next_channels, rise, study

from mmlapp.core import attach


@pytest.fixture
def model():
    model = classifier(8, 0).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight)
    return model


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(8, 3, 32, 32, generator=generator)
    return pixels, torch.arange(8) % 10


def test_a_removed_channel_is_one_whose_norm_is_silent(model, images):
    dense = copy.deepcopy(model)
    masked = attach(model, EXAMPLE, scope=SCOPE)
    start = masked.groups[0].size  # the stem; then the first block
    mask = torch.ones_like(masked.mask)
    mask[start + 3] = False
    found = rise(model, masked, images, [mask])
    assert bool(masked.mask.all())
    before = loss_of(dense, images)
    norm = dense.backbone.layer1[0].bn1
    with torch.no_grad():
        norm.weight[3] = norm.bias[3] = 0
    assert found.item() == pytest.approx(
        loss_of(dense, images) - before, abs=1e-5
    )


def test_gradients_are_those_of_small_changes(model, images):
    pruner = attach(model.double(), EXAMPLE.double(), scope=SCOPE)
    images = images[0].double(), images[1]
    slope = gradients(model, pruner, images).mean(0)
    with torch.no_grad():
        pruner.gate[5] = 1 - 1e-5
        less = loss_of(model, images)
        pruner.gate[5] = 1
    change = (loss_of(model, images) - less) / 1e-5
    assert slope[5].item() == pytest.approx(change, rel=1e-2, abs=1e-6)


def test_correlations_of_known_orders():
    truth = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    assert correlations(truth.sqrt(), truth, group) == pytest.approx(
        {'all': 1, 'within groups': 1}
    )
    # Backwards in one of the groups.
    mixed = torch.tensor([3.0, 2.0, 1.0, 10.0, 20.0, 30.0])
    found = correlations(mixed, truth, group)
    assert found['within groups'] == pytest.approx(0, abs=1e-9)
    # 1 - 6 * (4 + 4) / (6 * 35)
    assert found['all'] == pytest.approx(1 - 48 / 210)


def test_the_next_channels_are_the_least_of_those_kept(model):
    pruner = attach(model, EXAMPLE, scope=SCOPE)
    order = torch.arange(len(pruner.mask)).float()
    level, first, *_ = next_channels(pruner, order, 0.5)
    size = pruner.groups[0].size
    assert level[:size].tolist() == [False] * 8 + [True] * 8
    assert (level & ~first).nonzero().flatten().tolist() == [8, 9]


def test_a_study_has_all_scores(model, images):
    found = study(model, images)
    assert found['channels'] == 16 + 16 + 32 + 64
    assert found['margins']['points'] == 4 * 4
    assert set(found['single channels']) == {
        'l1', 'l2', 'bn_scale', 'fpgm', 'first order, -p', 'taylor, mean p^2'
    }  # fmt: skip
