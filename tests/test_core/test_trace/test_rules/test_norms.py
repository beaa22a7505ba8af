# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Norms, as operators: batch norms are followed, others frozen."""

import pytest
import torch
from torch import nn
from torch.nn import functional, utils
from torch.nn.utils import parametrizations


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('track', [True, False])
def test_batch_norm(net, conv, image, agree, affine, track):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x)).relu()),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8, affine=affine, track_running_stats=track),
        b=conv(8, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8}
    if affine or track:
        assert result.slim.norm.num_features == 4


def test_the_norm_carries_the_mask_and_the_convolution_does_not(
    net, conv, image, agree
):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 5),
    )
    masked = {
        name
        for name, module in agree(model, image).model.named_modules()
        if '_masks' in module.__dict__
    }
    assert masked == {'norm'}


def test_a_convolution_that_is_also_read_raw_is_masked_too(
    net, conv, image, agree
):
    def forward(m, x):
        x = m.a(x)
        return m.b(m.norm(x) * x)

    model = net(forward, a=conv(3, 8), norm=nn.BatchNorm2d(8), b=conv(8, 5))
    masked = {
        name
        for name, module in agree(model, image).model.named_modules()
        if '_masks' in module.__dict__
    }
    assert masked == {'a', 'norm'}


def test_batch_norm_without_scale_leaves_the_mask_to_the_convolution(
    net, conv, image, agree
):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8, affine=False),
        b=conv(8, 5),
    )
    pruner = agree(model, image).pruner
    pruner.reset()
    pruner.begin({'flops': 0.5}, 10)
    model(image).square().mean().backward()
    assert pruner.gate.grad.abs().sum() > 0


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.filterwarnings('ignore:input.s size at dim=1')
def test_instance_norm(net, conv, image, agree, affine):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x)).relu()),
        a=conv(3, 8),
        norm=nn.InstanceNorm2d(8, affine=affine),
        b=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 8}


def test_batch_norm_over_tokens_is_frozen(net, conv, image, frozen):
    def forward(m, x):
        tokens = m.a(x).flatten(2).transpose(1, 2)
        return m.norm(tokens)

    model = net(forward, a=conv(3, 8), norm=nn.BatchNorm1d(64))
    assert 'normalised over channels' in frozen(model, image)['a']


def test_a_norm_that_is_no_module_is_frozen(net, conv, image, frozen):
    def forward(m, x):
        y = m.a(x).movedim(1, -1)
        return m.b(functional.layer_norm(y, y.shape[-1:]).movedim(-1, 1))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert frozen(model, image)['a'] == 'normalised by layer_norm'


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.parametrize('normed', [False, True])
@pytest.mark.parametrize(
    'weight_norm', [parametrizations.weight_norm, utils.weight_norm]
)
def test_weight_normalised_filters_go_with_their_lengths(
    net, conv, image, agree, weight_norm, normed
):
    """The filters that are left are g v / |v|, as they were."""
    model = net(
        lambda m, x: m.c(m.norm(m.b(m.a(x))).relu()),
        a=conv(3, 8),
        b=weight_norm(conv(8, 6)),
        norm=nn.BatchNorm2d(6) if normed else nn.Identity(),
        c=conv(6, 5),
    )
    result = agree(model, image, scope='b*')
    (name,) = result.groups
    stored = result.slim.get_submodule(name)._parameters
    length, direction = (v for k, v in stored.items() if k != 'bias')
    norm = direction.flatten(1).norm(dim=1)[:, None, None, None]
    found = result.slim.b.weight
    torch.testing.assert_close(found, length * direction / norm)
    assert len(found) == 3


@pytest.mark.parametrize('act', [nn.Identity(), nn.Sigmoid()], ids=repr)
@pytest.mark.parametrize('dim', [0, 3])
def test_inputs_of_weight_normalised_filters_go(
    net, conv, image, agree, act, dim
):
    """Masked and narrowed, |v| is that of the inputs that are left."""
    model = net(
        lambda m, x: m.c(m.b(m.act(m.a(x)))),
        a=conv(3, 8),
        act=act,
        b=parametrizations.weight_norm(conv(8, 6), dim=dim),
        c=conv(6, 5),
    )
    result = agree(model, image)
    assert sorted(result.groups.values()) == [6, 8]
    stored = result.slim.b.parametrizations.weight
    direction = stored.original1
    assert direction.shape == (3, 4, 3, 3)
    others = [d for d in range(4) if d != dim]
    norm = direction.square().sum(others, keepdim=True).sqrt()
    torch.testing.assert_close(
        result.slim.b.weight, stored.original0 * direction / norm
    )


def test_inputs_of_a_computed_direction_stay(net, conv, image, frozen):
    """No mask reaches what it is computed from."""

    def forward(m, x):
        weight = torch._weight_norm(m.v.tanh(), m.g, 0)
        return m.b(functional.conv2d(m.a(x), weight, padding=1))

    model = net(
        forward,
        a=conv(3, 8),
        v=torch.nn.Parameter(torch.randn(6, 8, 3, 3)),
        g=torch.nn.Parameter(torch.rand(6, 1, 1, 1)),
        b=conv(6, 5),
    )
    assert frozen(model, image)['a'] == 'measured by weight_norm'
