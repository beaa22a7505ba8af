# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from torch import nn
from zoo import measure as module
from zoo.measure import measure, random_masks
from zoo.table import agrees

from mmlapp.core import attach


def test_every_step(entry):
    """Every layer of a ResNet costs less afterwards; counted two ways."""
    found = measure(entry)
    assert found.failed is None
    assert found.share == 1.0
    assert found.frozen['output of the network'] == 10
    assert list(found.errors) == [
        'half, random 3x32x32',
        'random, random 3x32x32',
    ]
    assert max(found.errors.values()) < 1e-5
    assert found.effect > 0.01
    assert 0 < found.ratio < 1
    assert found.counted == pytest.approx(found.ratio)
    assert found.gradient


def test_a_wrong_narrowing_is_seen(entry, monkeypatch):
    """The measure can fail: one number of a narrowed filter is changed."""
    original = module.narrow

    def broken(model, plan):
        original(model, plan)
        with torch.no_grad():
            next(model.backbone.parameters()).view(-1)[0] += 1.0

    monkeypatch.setattr(module, 'narrow', broken)
    found = measure(entry).to_dict()
    assert not agrees(found)


def test_a_network_that_fails_says_where(entry):
    path = Path(entry.config)
    path.write_text(path.read_text().replace('depth=8', 'depth=9'))
    assert measure(entry).failed.startswith('build: ')


def test_random_masks_are_within_their_bounds():
    model = nn.Sequential(*(nn.Conv2d(40, 40, 1) for _ in range(6)))
    pruner = attach(model, torch.rand(1, 40, 2, 2))
    random_masks(pruner, (0.2, 0.9))
    shares = pruner.keep_ratios().values()
    assert all(0.2 <= share <= 0.9 for share in shares)
    assert len(set(shares)) > 1
