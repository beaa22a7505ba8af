# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
import io

import pytest
import torch
from torch import nn

from mmlapp.core import attach, mixins, narrow
from mmlapp.core.mask import masked
from mmlapp.core.mixins import mix_in, take_off


class Loud:
    def forward(self, x):
        return super().forward(x) + 1


class Other:
    pass


def test_a_mixin_comes_before_the_class_and_goes_again():
    layer = nn.Identity()
    mix_in(layer, Loud)
    assert layer(1) == 2
    assert type(layer).__name__ == 'Identity'
    assert type(layer).__module__ == nn.Identity.__module__
    layer.__dict__['_noise'] = 3
    take_off(layer, Loud, '_noise')
    assert type(layer) is nn.Identity
    assert layer(1) == 1
    assert '_noise' not in layer.__dict__


def test_what_has_a_mixin_keeps_its_class():
    """Also below another one: what is narrowed again has it."""
    layer = nn.Identity()
    mix_in(layer, Loud)
    mix_in(layer, Other)
    before = type(layer)
    mix_in(layer, Loud)
    assert type(layer) is before
    assert layer(1) == 2


def test_other_modules_keep_their_class():
    layer = nn.Identity()
    mix_in(layer, Loud)
    assert nn.Identity()(1) == 1
    assert copy.deepcopy(layer)(1) == 2
    take_off(nn.Identity(), Loud)  # harmless


def test_equal_classes_are_made_once():
    one, two = nn.Identity(), nn.Identity()
    for layer in (one, two):
        mix_in(layer, Loud)
    assert type(one) is type(two)


class Own(nn.Identity):
    """Says itself how it is copied."""

    def __reduce__(self):
        return Own, ()


def test_a_class_that_says_it_itself_is_asked():
    layer = Own()
    mix_in(layer, Loud)
    assert type(copy.deepcopy(layer)) is Own


class Channels(nn.Module):
    """A norm over channels, which sees the living ones alone."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def sequence():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        Channels(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
    )


def step(model, optimizer, images):
    loss = model(images).square().mean() + model.pruner.loss()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.pruner.step()


def through_a_file(thing):
    """As another process reads it, which has made none of the classes."""
    file = io.BytesIO()
    torch.save(thing, file)
    mixins._mixed.cache_clear()
    masked._masked_class.cache_clear()
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('copied', [through_a_file, copy.deepcopy])
@pytest.mark.parametrize('steps', [0, 4])
@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(bypass='depthwise', method=dict(type='lapp', update='gradient')),
        dict(unit='filters', bypass='pointwise', method='random'),
    ],
    ids=['channels', 'branches', 'filters'],
)
def test_a_masked_network_is_saved_and_goes_on(copied, steps, settings):
    """Before its first forward, and in the middle of the phase."""
    torch.manual_seed(0)
    model, images = sequence(), torch.rand(4, 3, 8, 8)
    attach(model, images, **settings)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model.pruner.begin({'flops': 0.8}, steps=5)
    for _ in range(steps):
        step(model, optimizer, images)
    twin, its_optimizer = copied((model, optimizer))
    for _ in range(2):
        for one in ((model, optimizer), (twin, its_optimizer)):
            torch.manual_seed(1)
            step(*one, images)
        assert torch.equal(twin(images), model(images))
    for one in (model, twin):
        one.pruner.finish()
    plan = model.pruner.plan()
    assert twin.pruner.plan() == plan
    small = [narrow(m, plan).eval()(images) for m in (twin, model)]
    assert torch.equal(*small)
