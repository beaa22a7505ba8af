# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Reductions over channels that see the living ones alone."""

import gc
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from mmlapp.core import PruningError
from mmlapp.core.mask.living import release
from mmlapp.core.mask.reducing import LivingAxis, reduce_living
from mmlapp.core.trace.reductions import REDUCTIONS, called_at

# Channels 1 and 3 of six are removed.
ALIVE = [0, 2, 4, 5]


@pytest.fixture
def source():
    gate = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5, 1.0])
    return SimpleNamespace(active=True, factor=gate)


def place_in(function, x):
    """Where a function calls its reduction: the first that is seen."""
    seen = []

    class Seeing(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in REDUCTIONS:
                seen.append(called_at(sys._getframe())[0])
            return func(*args, **(kwargs or {}))

    with Seeing():
        function(x)
    return seen[0]


class Measured(nn.Module):
    """A sum over pixels, then what a function says of channels."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.sum((2, 3), keepdim=True) + x)


FUNCTIONS = {
    'mean': lambda x: x.mean(1),
    'largest': lambda x: torch.amax(x, dim=1, keepdim=True),
    'values and places': lambda x: x.max(1)[0],
    'deviation': lambda x: torch.std(x, dim=1),
    'both': lambda x: torch.stack(torch.var_mean(x, dim=(1, 2))),
    'all': lambda x: x.min(),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_removed_channels_do_not_count(source, name):
    module = Measured(FUNCTIONS[name])
    x = torch.randn(2, 6, 3, 3)
    expected, whole = module(x[:, ALIVE]), module(x)
    place = place_in(FUNCTIONS[name], x)
    reduce_living(module, {place: LivingAxis(source, torch.arange(6), 1)})
    torch.testing.assert_close(module(x), expected)
    # What is narrow already, as inside of a module on living channels.
    torch.testing.assert_close(module(x[:, ALIVE]), expected)
    source.active = False
    torch.testing.assert_close(module(x), whole)
    release(module)
    assert type(module) is Measured


def test_gradients_go_to_living_channels(source):
    module = Measured(FUNCTIONS['mean'])
    x = torch.randn(2, 6, 3, 3, requires_grad=True)
    place = place_in(FUNCTIONS['mean'], x)
    reduce_living(module, {place: LivingAxis(source, torch.arange(6), 1)})
    module(x).sum().backward()
    assert (x.grad[:, ALIVE] != 0).all()
    assert (x.grad[:, [1, 3]] == 0).all()


def test_a_compiled_network_sees_the_living_ones_too(source):
    """The compiler runs other code, where calls are at other places."""
    x, function = torch.rand(2, 6, 3, 3), FUNCTIONS['mean']
    module = Measured(function)
    place = place_in(function, x)
    axis = LivingAxis(source, torch.arange(6), 1)
    reduce_living(module, {place: axis})
    compiled = torch.compile(nn.Sequential(module), backend='eager')
    wanted = function((x.sum((2, 3), keepdim=True) + x)[:, ALIVE])
    for _ in range(2):
        torch.testing.assert_close(compiled(x), wanted)
    torch.compiler.reset()


@pytest.mark.parametrize('reentrant', [True, False])
def test_what_the_backward_runs_again_is_refused(source, reentrant):
    """There the whole module runs again, or it would see all channels."""
    function = FUNCTIONS['mean']
    x = torch.rand(2, 6, 3, 3, requires_grad=True)
    axes = {place_in(function, x): LivingAxis(source, torch.arange(6), 1)}
    part = Measured(lambda y: checkpoint(function, y, use_reentrant=reentrant))
    reduce_living(part, axes)
    with pytest.raises(PruningError, match='with_cp=False'):
        part(x)
    gc.collect()  # PyTorch's hooks go with the frames of the error
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # nothing requires a gradient
        part(x)


@pytest.mark.parametrize('reentrant', [True, False])
def test_a_module_that_runs_again_sees_the_living_ones(source, reentrant):
    whole, function = Measured(FUNCTIONS['mean']), FUNCTIONS['mean']
    x = torch.rand(2, 6, 3, 3)
    axes = {place_in(function, x): LivingAxis(source, torch.arange(6), 1)}
    reduce_living(whole, axes)
    gradients = []
    for run in (
        whole,
        lambda x: checkpoint(whole, x, use_reentrant=reentrant),
    ):
        leaf = x.clone().requires_grad_()
        run(leaf).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)
