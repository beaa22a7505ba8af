# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Mistakes are told from noise and from rounding."""

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d

from mmlapp.core import PruningWarning, analyse, attach, narrow

OTHER = 'with fewer of them, the network would compute something else'


def test_the_same_noise_is_no_hindrance(net, conv, image, recwarn):
    """One number for all channels: both networks get the same."""

    def forward(m, x):
        return m.b(m.a(x) * torch.rand(()).double())

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert [g.size for g in analyse(model, image).groups.prunable] == [8]
    assert not recwarn.list


def test_a_network_that_gives_something_else_at_every_call(net, conv, image):
    def forward(m, x):
        y = m.a(x)
        return m.b(y * torch.rand_like(y))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    with pytest.warns(PruningWarning, match='other outputs at every call'):
        pruner = attach(model, image)
    pruner.gate[:4] = 0
    assert narrow(model, pruner.plan()).a.out_channels == 4


def test_rounding_is_told_from_a_mistake(net, conv, image):
    """A sine of large numbers makes much of the last bit of float32."""
    model = net(
        lambda m, x: m.c((m.b(m.a(x)) * 1e5).sin()),
        a=conv(3, 64),
        b=conv(64, 6),
        c=conv(6, 5),
    ).float()
    analysis = analyse(model, lambda: model(image.float()))
    assert [g.name for g in analysis.groups.prunable] == ['a', 'b']
    assert model.a.weight.dtype == torch.float32
    assert not model._forward_pre_hooks


class Peaks(nn.Module):
    """Local maxima of features that are equal everywhere but at the border."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts
        self.convs = nn.ModuleList(
            nn.Conv2d(width, 64, 3, padding=1) for width in (3, 64, 64, 64)
        )

    def forward(self, x):
        x = interpolate(self.convs[0](x).relu(), size=24, mode='bilinear')
        heat = self.convs[3](self.convs[2](self.convs[1](x).relu()).relu())
        top = max_pool2d(heat, 2, stride=1, padding=1)[:, :, :-1, :-1]
        peaks = heat * (top == heat)
        # A number of channels which is another one when it is narrowed.
        return [peaks, x.sum(1) / x.shape[1]] if self.counts else peaks


@pytest.mark.parametrize('counts', [False, True])
def test_what_rounding_chooses_hides_no_mistake(counts):
    torch.manual_seed(0)
    model = Peaks(counts).eval()
    with pytest.warns(PruningWarning, match='nothing but rounding differs'):
        found = analyse(model, torch.rand(1, 3, 1, 1))
    first, *others = found.groups.items
    assert (first.frozen is not None) == counts
    assert [group.frozen for group in others[:2]] == [None, None]


@pytest.mark.parametrize('size', [1e5, 1e9, 1e13])
def test_rounding_that_a_network_makes_larger(
    net, conv, image, frozen, recwarn, size
):
    """Differences of 1e-12, of 1e-8, and all that a sine can do."""
    model = net(
        lambda m, x: (m.b(m.a(x)) * size).sin(), a=conv(3, 8), b=conv(8, 4)
    )
    assert frozen(model, image) == {'b': 'output of the network'}
    warned = [str(w.message) for w in recwarn]
    assert len(warned) == (size == 1e13)
    assert all('where nothing but rounding differs' in w for w in warned)


@pytest.mark.parametrize('size', [1e5, 1e9])
def test_a_mistake_beside_larger_rounding(net, conv, image, frozen, size):
    model = net(
        lambda m, x: (m.b(m.a(x)) * size).sin() + m.a(x).shape[1],
        a=conv(3, 8),
        b=conv(8, 4),
    )
    assert frozen(model, image)['a'] == OTHER
