# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import nn
from zoo import Entry
from zoo import measure as module
from zoo.measure import measure, random_masks
from zoo.table import agrees

from mmlapp.core import attach


@MODELS.register_module()
class HardToTrain(ImageClassifier):
    """Refuses modes while it trains, as some detectors do."""

    refused = ('tensor',)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """Raises in training, else as usual."""
        if self.training and mode in self.refused:
            raise TypeError(f'{mode} is not for training')
        return super().forward(inputs, data_samples, mode)


@pytest.fixture
def hard(entry):
    path = Path(entry.config)
    text = path.read_text().replace('ImageClassifier', 'HardToTrain')
    path.write_text(text)
    return entry


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
    *_, told = found['notes'][1].split()
    assert found['notes'][1].startswith('half: rounding of float64 alone')
    assert float(told) < 1e-13


def test_a_network_that_fails_says_where(entry):
    path = Path(entry.config)
    path.write_text(path.read_text().replace('depth=8', 'depth=9'))
    assert measure(entry).failed.startswith('build: ')


@MODELS.register_module()
class OfLargeImages(ImageClassifier):
    """Gives features of small images, but no outputs."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """Raises for small images, else as usual."""
        if min(inputs.shape[2:]) < 48:
            raise RuntimeError('input image is smaller than kernel')
        return super().forward(inputs, data_samples, mode)


def test_features_are_not_compared_in_place_of_outputs(entry):
    """Of those of the other size, which narrowed ones have fewer of."""
    path = Path(entry.config)
    text = path.read_text().replace('ImageClassifier', 'OfLargeImages')
    path.write_text(text)
    found = measure(Entry(str(path), (3, 64, 64)))
    assert found.failed is None
    assert 'does not run on random 3x32x32' in found.notes
    assert list(found.errors) == [
        'half, random 3x64x64',
        'random, random 3x64x64',
    ]
    assert max(found.errors.values()) < 1e-5


def test_what_does_not_train_by_outputs_trains_by_losses(hard):
    found = measure(hard)
    assert (found.failed, found.gradient) == (None, True)
    assert found.notes == ["backward in mode='loss'"]


def test_what_does_not_train_when_dense_is_no_failure(hard, monkeypatch):
    monkeypatch.setattr(HardToTrain, 'refused', ('tensor', 'loss'))
    found = measure(hard)
    assert (found.failed, found.gradient) == (None, None)
    assert found.notes[-1] == (
        "does not train, dense or narrow (mode='tensor': TypeError: tensor "
        "is not for training; mode='loss': TypeError: loss is not for "
        'training)'
    )


def test_what_trains_when_dense_must_train_when_narrow(hard, monkeypatch):
    """The losses of the narrow one would run, which must not hide it."""
    original = module.narrow
    monkeypatch.setattr(HardToTrain, 'refused', ())

    def broken(model, plan):
        original(model, plan)
        model.refused = ('tensor',)

    monkeypatch.setattr(module, 'narrow', broken)
    found = measure(hard)
    assert found.failed == 'learn: TypeError: tensor is not for training'
    assert found.gradient is None


def test_gradients_that_are_no_numbers_are_seen(hard, monkeypatch):
    original = module.narrow

    def broken(model, plan):
        original(model, plan)
        head = type(model.head)
        monkeypatch.setattr(
            head, 'loss', lambda *args: {'loss': (args[1][0] * 0).sqrt().sum()}
        )

    monkeypatch.setattr(module, 'narrow', broken)
    assert measure(hard).gradient is False


def test_random_masks_are_within_their_bounds():
    model = nn.Sequential(*(nn.Conv2d(40, 40, 1) for _ in range(6)))
    pruner = attach(model, torch.rand(1, 40, 2, 2))
    random_masks(pruner, (0.2, 0.9))
    shares = pruner.keep_ratios().values()
    assert all(0.2 <= share <= 0.9 for share in shares)
    assert len(set(shares)) > 1
