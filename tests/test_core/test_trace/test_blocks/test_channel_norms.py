# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Norms over channels: masked they compute what they will when narrowed."""

import copy

import pytest
import torch
from mmpretrain.models.utils import LayerNorm2d as LayerNormOfMMPretrain
from torch import nn
from torch.nn import functional

from mmlapp.core import attach, narrow
from mmlapp.core.mask.living import RunsOnLiving


class LayerNorm2d(nn.LayerNorm):
    """As torchvision and timm write it: channels first."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = functional.layer_norm(
            x, self.normalized_shape, self.weight, self.bias, self.eps
        )
        return x.permute(0, 3, 1, 2)


def first(norm, x):
    return norm(x)


def last(norm, x):
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS = {
    'channels first': (lambda: LayerNorm2d(8), first, 8),
    'channels last': (lambda: nn.LayerNorm(8), last, 8),
    'rms': (lambda: nn.RMSNorm(8, eps=1e-6), last, 8),
    'one group': (lambda: nn.GroupNorm(1, 8), first, 8),
    'one group, no weights': (
        lambda: nn.GroupNorm(1, 8, affine=False),
        first,
        8,
    ),
    'two groups': (lambda: nn.GroupNorm(2, 8), first, 4),
    'four groups': (lambda: nn.GroupNorm(4, 8), first, 4),
    'four groups, no weights': (
        lambda: nn.GroupNorm(4, 8, affine=False),
        first,
        4,
    ),
}


@pytest.mark.parametrize('name', NORMS)
def test_masked_equals_narrowed(net, conv, image, agree, name):
    make, call, size = NORMS[name]
    model = net(
        lambda m, x: m.b(call(m.norm, m.a(x)).sigmoid()),
        a=conv(3, 8),
        norm=make(),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': size}
    assert result.slim.a.out_channels == 4
    assert type(result.slim.norm) is type(make())


class OwnLayerNorm(nn.LayerNorm):
    """As timm writes it."""

    def forward(self, x):
        shape, eps = self.normalized_shape, self.eps
        return functional.layer_norm(x, shape, self.weight, self.bias, eps)


@pytest.mark.parametrize('kind', [nn.LayerNorm, OwnLayerNorm, nn.RMSNorm])
def test_states_are_normalised_one_by_one(net, agree, kind):
    """States [N, S, C] of channels may go as the channels may."""

    def forward(m, x):
        states = m.states(x).mT @ m.channels(x)  # [N, S, C]
        return m.last(m.read(x) @ m.norm(states).sigmoid())

    model = net(
        forward,
        states=nn.Linear(3, 6),
        channels=nn.Linear(3, 8),
        read=nn.Linear(3, 6),
        norm=kind(8, eps=1e-6),
        last=nn.Linear(8, 5),
    )
    result = agree(model, torch.randn(2, 7, 3, dtype=torch.float64))
    assert result.groups == {'states': 6, 'channels': 8}
    assert result.slim.norm.normalized_shape == (4,)


def test_statistics_are_those_of_the_living(conv, image):
    """The definition, computed without any of our code."""
    model = nn.Sequential(
        conv(3, 8), nn.GroupNorm(1, 8, affine=False), conv(8, 5)
    ).double()
    pruner = attach(model, image)
    kept = [0, 3, 4]
    pruner.set_mask(torch.isin(torch.arange(8), torch.tensor(kept)))
    seen = []
    model[2].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        raw = functional.conv2d(
            image,
            model[0]._parameters['weight'],
            model[0]._parameters['bias'],
            padding=1,
        )
        model(image)
    alive = raw[:, kept]
    mean = alive.mean((1, 2, 3), keepdim=True)
    scale = alive.var((1, 2, 3), correction=0, keepdim=True).add(1e-5).sqrt()
    assert torch.allclose(seen[0][:, kept], (alive - mean) / scale)
    assert (seen[0][:, [1, 2, 5, 6, 7]] == 0).all()


def test_whole_groups_change_their_number(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=nn.GroupNorm(4, 8),
        b=conv(8, 5),
    )
    slim = agree(model, image).slim
    assert (slim.norm.num_groups, slim.norm.num_channels) == (2, 4)


def test_a_norm_that_two_layers_share(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(m.norm(m.a(x))) + m.c(m.norm(m.b(x))),
        a=conv(3, 8),
        b=conv(3, 8),
        norm=nn.GroupNorm(1, 8),
        c=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 8}


@pytest.mark.parametrize('kind', [nn.LayerNorm, nn.RMSNorm])
def test_a_shape_without_weights_follows(net, conv, image, agree, kind):
    """As in DiT (arXiv 2212.09748), whose norms have no parameters."""
    model = net(
        lambda m, x: m.b(last(m.norm, m.a(x))),
        a=conv(3, 8),
        norm=kind(8, elementwise_affine=False),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    assert result.slim.norm.normalized_shape == (4,)


def test_gradients_reach_norm_and_thresholds(conv, image):
    model = nn.Sequential(conv(3, 8), nn.GroupNorm(1, 8), conv(8, 5)).double()
    pruner = attach(model, image)
    pruner.begin({'flops': 0.5}, steps=4)
    pruner.gate.data[:4] = 0
    model(image).square().sum().backward()
    assert model[1].weight.grad[4:].abs().min() > 0
    assert (model[1].weight.grad[:4] == 0).all()
    assert pruner.gate.grad.abs().sum() > 0


def test_narrowing_gives_the_class_back(conv, image):
    model = nn.Sequential(conv(3, 8), nn.GroupNorm(1, 8), conv(8, 5)).double()
    pruner = attach(model, image)
    assert isinstance(model[1], RunsOnLiving)
    assert isinstance(copy.deepcopy(model)[1], RunsOnLiving)
    pruner.gate.data[:4] = 0
    narrow(model, pruner.plan())
    assert type(model[1]) is nn.GroupNorm
    assert '_living' not in model[1].__dict__


def test_a_norm_of_mmpretrain_that_moves_its_channels(check_block):
    norm = check_block(LayerNormOfMMPretrain(16)).slim.block
    assert norm.num_channels == 8
    assert norm.normalized_shape == (8,)


def test_a_shape_of_several_dimensions_is_frozen(net, conv, image, frozen):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=nn.LayerNorm([8, 8, 8]),
        b=conv(8, 5),
    )
    assert frozen(model, image)['a'] == 'normalised by LayerNorm'


class NormAct(nn.GroupNorm):
    """With the activation behind it, as timm's."""

    def __init__(self, groups, channels, act):
        super().__init__(groups, channels)
        self.act = act

    def forward(self, x):
        return self.act(super().forward(x))


def test_a_norm_with_its_activation(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=NormAct(2, 8, nn.Sigmoid()),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 4}
    assert result.slim.norm.num_channels == 4


def test_a_norm_with_a_layer_of_its_own_is_followed(net, conv, image, frozen):
    """What is behind the norm might mix channels."""
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=NormAct(2, 8, conv(8, 8)),
        b=conv(8, 5),
    )
    assert frozen(model, image)['a'] == 'normalised by group_norm'
