# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks that go over their children compute what they did before."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, attach, narrow
from mmlapp.core.criteria import compare_scores


class ByName(nn.Module):
    """Its last child is no layer before an activation."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)

    def forward(self, x):
        for name, layer in self.named_children():
            x = layer(x) if name == 'b' else layer(x).relu()
        return x


class ByPlace(nn.Sequential):
    """Its last child is a head."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3))

    def forward(self, x):
        for layer in list(self)[:-1]:
            x = layer(x)
        return self[-1](x) / len(self)


class Listed(nn.ModuleList):
    """A list that is called."""

    def __init__(self):
        super().__init__([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)])

    def forward(self, x):
        for number, layer in enumerate(self):
            x = layer(x) if number + 1 == len(self) else layer(x).relu()
        return x


class Stored(ByName):
    """Children as PyTorch keeps them."""

    def forward(self, x):
        first, *others, last = self._modules.values()
        return last(first(x).relu()).sigmoid() + len(others)


@pytest.mark.parametrize('kind', [ByName, ByPlace, Listed, Stored])
def test_no_forward_meets_the_pruner(kind, image):
    model = kind().double()
    expected = model(image)
    pruner = attach(model, image)
    torch.testing.assert_close(model(image), expected)
    assert model.pruner is pruner
    assert 'pruner.gate' in model.state_dict()
    pruner.set_mask(torch.arange(8) % 2 == 0)
    masked = model(image)
    torch.testing.assert_close(copy.deepcopy(model)(image), masked)
    narrow(model, pruner.plan())
    torch.testing.assert_close(model(image), masked)
    assert not model._forward_hooks
    assert not model._forward_hooks_always_called


def test_it_is_back_when_a_forward_fails(image):
    model = ByName().double()
    pruner = attach(model, image)
    with pytest.raises(RuntimeError, match='channels'):
        model(image[:, :2])
    assert model.pruner is pruner
    assert '_hidden_pruner' not in vars(model)
    assert model(image).shape[1] == 5


class Again(nn.Module):
    """Runs itself, on a smaller image first, and goes over its children."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)
        self.fails = False

    def forward(self, x, depth=2):
        inner = self(x[..., 1:, 1:], depth - 1).mean() if depth else 0
        if self.fails:
            raise self.fails
        *_, last = self.children()
        return last(self.a(x).relu()) + inner


def test_a_network_that_runs_itself(image):
    model = Again().double()
    expected = model(image)
    pruner = attach(model, image)
    torch.testing.assert_close(model(image), expected)
    assert model.pruner is pruner
    pruner.begin({'flops': 0.5}, 1)
    model(image).square().mean().backward()
    pruner.step()
    masked = model(image)
    narrow(model, pruner.plan())
    torch.testing.assert_close(model(image), masked)


@pytest.mark.parametrize('fault', [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize(
    'after', ['forward', 'state_dict', 'load', 'compare', 'narrow']
)
def test_it_is_back_when_one_that_runs_itself_ends_early(image, fault, after):
    """Hooks behind a forward do not run for Ctrl-C."""
    model = Again().double()
    pruner = attach(model, image)
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()
    masked, state = model(image), model.state_dict()
    model.fails = fault()
    with pytest.raises(fault):
        model(image)
    model.fails = False
    if after == 'state_dict':
        assert list(model.state_dict()) == list(state)
    if after == 'load':
        model.load_state_dict(state)
    if after == 'compare':
        with pytest.raises(PruningError, match='are removed'):
            compare_scores(model, ['l1'])
    if after == 'narrow':
        narrow(model, pruner.plan())
        assert not hasattr(model, 'pruner')
        assert not model._state_dict_pre_hooks
    torch.testing.assert_close(model(image), masked)
    assert after == 'narrow' or model.pruner is pruner
