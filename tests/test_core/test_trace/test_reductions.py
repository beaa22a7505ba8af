# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Networks that reduce activations over their channels."""

import copy

import pytest
import torch
from torch import nn
from torch.utils import checkpoint as cp
from torch.utils.checkpoint import checkpoint

from mmlapp.core import PruningError, attach, narrow


class Spatial(nn.Module):
    """Which pixels count, told by statistics of channels (CBAM)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        found = [x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]]
        return x * self.conv(torch.cat(found, 1)).sigmoid()


class Written(nn.Module):
    """A layer norm over channels, operator by operator."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.shift = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * self.scale + self.shift


class Inside(nn.Module):
    """Reduces before and behind a module that does, and is called twice."""

    def __init__(self):
        super().__init__()
        self.part = Spatial()

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = self.part(self.part(x))
        return x / (1 + torch.std(x, dim=(1, 2, 3), keepdim=True))


class Nested(nn.Module):
    """Has another one of its class inside, which sees other channels."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1) if inner is None else inner

    def forward(self, x):
        y = self.inner(x)
        return x * y.mean(1, keepdim=True) + x.amax(1, keepdim=True)


class Joined(nn.Module):
    """Statistics of what two layers made, of which one is wider."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(8, 12, 1)

    def forward(self, x):
        both = torch.cat([x, self.wide(x)], 1)
        return x * both.amax(1, keepdim=True)


BLOCKS = {
    'spatial': (Spatial, {}),
    'written out': (Written, {}),
    'inside': (Inside, {}),
    'joined': (Joined, {'block.wide': 12}),
    'nested': (lambda: Nested(Nested()), {'block.inner.inner': 8}),
}


@pytest.mark.parametrize('name', BLOCKS)
def test_masked_and_narrowed_agree(net, conv, image, agree, name):
    block, more = BLOCKS[name]
    model = net(
        lambda m, x: m.b(m.block(m.a(x))),
        a=conv(3, 8),
        block=block(),
        b=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 8, **more}


def test_hooks_that_measure_are_no_part_of_it(conv, image):
    """They may be called between the reductions of a module."""
    model = nn.Sequential(conv(3, 8), Spatial(), conv(8, 5)).double()
    pruner = attach(model, image)
    pruner.set_mask(torch.arange(8) % 3 == 0)
    masked = model(image)
    seen = []
    layers = model[1], model[1].conv
    for layer in layers:
        layer.register_forward_pre_hook(lambda m, x: seen.append(x[0].mean(1)))
    torch.testing.assert_close(model(image), masked)
    assert [x.dim() for x in seen] == [3, 3]


def test_two_left_have_a_deviation(net, conv, image):
    model = net(
        lambda m, x: m.b(m.block(m.a(x))),
        a=conv(3, 8),
        block=Deviating(),
        b=conv(8, 5),
    )
    (group,) = attach(model, image).groups
    assert (group.name, group.floor) == ('a', 2)


class Deviating(nn.Module):
    def forward(self, x):
        return x * x.std(1, keepdim=True)


def test_the_network_itself_keeps_its_class(net, conv, image, frozen):
    """It has no place for what skips channels; its parts have."""
    model = net(
        lambda m, x: m.b(x.mean(1, keepdim=True) + m.a(x).mean(1, True)),
        a=conv(3, 8),
        b=conv(1, 5),
    )
    assert frozen(model, image)['a'] == 'reduced over channels by aten::mean'


def test_a_copy_skips_what_its_original_does(conv, image):
    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(conv(3, 8), Spatial(), conv(8, 5))
            self.twin = copy.deepcopy(self.net).requires_grad_(False)

        def forward(self, x):
            return self.net(x)

    model = Student().double()
    pruner = attach(model, image)
    pruner.set_mask(torch.arange(8) % 2 == 0)
    masked = model.twin(image)
    slim = narrow(model, pruner.plan())
    torch.testing.assert_close(slim.twin(image), masked, rtol=1e-11, atol=0)
    assert slim.twin[0].out_channels == 4


class Again(Spatial):
    """Lets the backward compute its statistics once more."""

    def forward(self, x):
        run = super().forward
        if x.requires_grad:
            return checkpoint(run, x, use_reentrant=False)
        return run(x)


class Imported(Spatial):
    def forward(self, x):
        run = super().forward
        return cp.checkpoint(run, x) if x.requires_grad else run(x)


def test_what_is_checkpointed_in_a_forward_keeps_its_channels(conv, image):
    """Its second run, in a backward, would see those that are masked."""
    for kind in (Again, Imported):
        model = nn.Sequential(conv(3, 8), kind(), conv(8, 4)).double()
        with pytest.raises(PruningError, match='reduced over channels'):
            attach(model, image)
