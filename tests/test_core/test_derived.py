# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What modules keep from one call to the next."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.core.derived import contents_kept, forget_derived, lay_out


class Cached(nn.Module):
    """Keeps its biases, laid out, in evaluation (LeViT)."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.rand(8, 3))
        self.register_buffer('places', torch.tensor([2, 0, 1, 2]))
        self.kept = {}

    def train(self, mode=True):
        self.kept = {}
        return super().train(mode)

    def _apply(self, fn, *args, **kwargs):
        self.kept = {}
        return super()._apply(fn, *args, **kwargs)

    def laid_out(self):
        if self.training:
            return self.table[:, self.places]
        if 'biases' not in self.kept:
            self.kept['biases'] = self.table[:, self.places]
        return self.kept['biases']

    def forward(self, x):
        return x + self.laid_out()[:, :, None]


class LaidOut(nn.Module):
    """Lays its biases out when evaluation begins (MMPretrain's LeViT)."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.rand(8, 3))
        self.register_buffer('places', torch.tensor([2, 0, 1, 2]))

    @torch.no_grad()
    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.__dict__.pop('biases', None)
        else:
            self.biases = self.table[:, self.places]
        return self

    def forward(self, x):
        biases = self.table[:, self.places] if self.training else self.biases
        return x + biases[:, :, None]


@pytest.fixture
def cached(net, conv):
    return net(
        lambda m, x: m.b(m.cached(m.a(x))),
        a=conv(3, 8),
        cached=Cached(),
        b=conv(8, 5),
    ).eval()


@pytest.mark.parametrize('evaluated', [False, True])
@torch.no_grad()
def test_a_table_that_is_kept_follows_its_parameter(cached, evaluated):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    if evaluated:
        cached(x)
    pruner = attach(cached, x)
    assert {g.name: g.size for g in pruner.groups} == {'a': 8}
    pruner.set_mask(torch.arange(8) % 3 > 0)
    twin = copy.deepcopy(cached)
    forget_derived(twin.modules())
    masked = twin(x)
    cached.cached.kept['biases'] = torch.zeros(8, 4)  # of before
    slim = narrow(cached, pruner.plan())
    torch.testing.assert_close(slim(x), masked, rtol=1e-11, atol=1e-11)
    assert slim.cached.kept['biases'].shape == (5, 4)


def test_an_analysis_leaves_nothing_behind(cached, image):
    attach(cached, image[..., :4, :4])
    assert cached.cached.kept == {}


@pytest.mark.parametrize('mode', [False, True])
@torch.no_grad()
def test_a_table_that_is_laid_out_for_evaluation(net, conv, mode):
    model = net(
        lambda m, x: m.b(m.laid_out(m.a(x))),
        a=conv(3, 8),
        laid_out=LaidOut(),
        b=conv(8, 5),
    ).train(mode)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    pruner = attach(model, x)
    assert {g.name: g.size for g in pruner.groups} == {'a': 8}
    assert hasattr(model.laid_out, 'biases') is not mode
    pruner.set_mask(torch.arange(8) % 3 > 0)
    masked = model(x)
    slim = narrow(model, pruner.plan())
    torch.testing.assert_close(slim(x), masked, rtol=1e-11, atol=1e-11)
    slim.eval()
    torch.testing.assert_close(slim(x), masked, rtol=1e-11, atol=1e-11)
    assert slim.laid_out.biases.shape == (5, 4)


def test_only_who_lays_something_out_is_told():
    told = []

    class Freezing(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.part = LaidOut()

        def train(self, mode=True):
            told.append(self)
            self.part.eval()
            return super().train(mode)

    module = Freezing()
    module.training = module.part.training = False
    lay_out(module.modules())
    assert not told
    assert module.part.biases.shape == (8, 4)


def test_contents_come_back():
    module = nn.Module()
    module.empty, module.names = {}, {'a': [1]}
    empty, names, first = module.empty, module.names, module.names['a']
    with contents_kept([module]):
        empty['b'] = 1
        names['a'] = [1]
    assert (empty, names) == ({}, {'a': [1]})
    assert module.empty is empty
    assert names['a'] is first


def test_only_who_keeps_something_is_told():
    told = []

    class Told(nn.Module):
        def _apply(self, fn, *args, **kwargs):
            told.append(self)
            return super()._apply(fn, *args, **kwargs)

    modules = Told(), nn.LSTM(2, 2), nn.Linear(2, 2)
    forget_derived(modules)
    assert told == [modules[0]]
