# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pooling, resizing, reductions and softmax."""

import pytest
import torch
from torch import nn
from torch.nn import functional

POOLS = {
    'max': nn.MaxPool2d(2),
    'max padded': nn.MaxPool2d(3, padding=1),
    'mean': nn.AvgPool2d(3, padding=1),
    'adaptive mean': nn.AdaptiveAvgPool2d(3),
    'adaptive max': nn.AdaptiveMaxPool2d(3),
    'global': nn.AdaptiveAvgPool2d(1),
    'nearest': nn.Upsample(scale_factor=2),
    'bilinear': nn.Upsample(scale_factor=2, mode='bilinear'),
    'antialiased': lambda x: functional.interpolate(
        x.float(), size=(5, 5), mode='bilinear', antialias=True
    ).double(),
    'bicubic': nn.Upsample(scale_factor=2, mode='bicubic'),
    'reflect': nn.ReflectionPad2d(2),
    'replicate': nn.ReplicationPad2d(2),
    'max 1d': lambda x: functional.max_pool1d(x.flatten(2), 2)[..., None],
    'mean 1d': lambda x: functional.avg_pool1d(x.flatten(2), 2)[..., None],
    'to a row': lambda x: functional.adaptive_avg_pool1d(x[..., 0], 4)[
        ..., None
    ],
}


def as_row(operator):
    """The same with one spatial dimension."""
    return lambda x: operator(x.flatten(2))[..., None]


def as_volume(operator):
    """The same with three."""
    return lambda x: operator(x.unflatten(3, (2, 4))).flatten(3)


ROWS = {
    'linear': nn.Upsample(scale_factor=2, mode='linear'),
    'nearest': nn.Upsample(scale_factor=2),
    'nearest, exact': nn.Upsample(scale_factor=2, mode='nearest-exact'),
    'adaptive max': nn.AdaptiveMaxPool1d(3),
    'reflect': nn.ReflectionPad1d(2),
    'replicate': nn.ReplicationPad1d(2),
}
VOLUMES = {
    'linear': nn.Upsample(scale_factor=2, mode='trilinear'),
    'nearest': nn.Upsample(scale_factor=2),
    'nearest, exact': nn.Upsample(scale_factor=2, mode='nearest-exact'),
    'max': nn.MaxPool3d(2),
    'mean': nn.AvgPool3d(2),
    'adaptive mean': nn.AdaptiveAvgPool3d(2),
    'adaptive max': nn.AdaptiveMaxPool3d(2),
    'reflect': nn.ReflectionPad3d(1),
    'replicate': nn.ReplicationPad3d(1),
}
POOLS |= {f'{name}, in a row': as_row(op) for name, op in ROWS.items()}
POOLS |= {f'{name}, in 3d': as_volume(op) for name, op in VOLUMES.items()}


@pytest.mark.parametrize('name', POOLS)
def test_pools_and_resizes_pass_channels(net, conv, image, agree, name):
    pool = POOLS[name]
    model = net(lambda m, x: m.b(pool(m.a(x))), a=conv(3, 8), b=conv(8, 5, 1))
    result = agree(model, image, tolerance=1e-6)
    assert result.groups == {'a': 8}


def back_at_its_place(m, x):
    x, places = functional.max_pool2d(m.a(x), 2, return_indices=True)
    return m.c(functional.max_unpool2d(m.b(x), places, 2))


def test_values_go_with_the_indices_that_place_them(net, conv, image, agree):
    """The decoder of SegNet: indices of channel c place what is channel c."""
    model = net(back_at_its_place, a=conv(3, 8), b=conv(8, 8), c=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


def test_indices_that_leave_the_scope_hold_what_they_place(
    net, conv, image, frozen
):
    model = net(back_at_its_place, a=conv(3, 8), b=conv(8, 8), c=conv(8, 5))
    assert frozen(model, image, ignore='b')['a'] == 'ignored by the user: b'


def test_sampled_maps_keep_their_channels(net, conv, image, agree):
    """A spatial transformer: two coordinates, told by a layer, stay."""

    def forward(m, x):
        grid = m.b(x).tanh().movedim(1, 3)
        return m.c(functional.grid_sample(m.a(x), grid, align_corners=False))

    model = net(forward, a=conv(3, 8), b=conv(3, 2), c=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


REDUCTIONS = {
    'mean': lambda x: x.mean((2, 3)),
    'mean, negative': lambda x: x.mean((-1, -2)),
    'mean in steps': lambda x: x.mean(3).mean(2),
    'mean of the batch': lambda x: x.mean((0, 2, 3))[None],
    'sum': lambda x: x.sum((2, 3)),
    'max': lambda x: x.amax((2, 3)),
    'max with index': lambda x: x.flatten(2).max(2).values,
    'min': lambda x: x.amin((2, 3)),
    'spread': lambda x: x.std((2, 3)),
    'variance': lambda x: torch.var_mean(x, (2, 3))[0],
    'norm': lambda x: x.norm(dim=(2, 3)),
    'any': lambda x: (x > 0.5).flatten(2).any(2).double(),
    'softmax over space': lambda x: (x.flatten(2).softmax(2) ** 2).sum(2),
}


@pytest.mark.parametrize('name', REDUCTIONS)
def test_reductions_over_space_keep_channels(net, conv, image, agree, name):
    reduce = REDUCTIONS[name]
    model = net(
        lambda m, x: m.b(reduce(m.a(x))), a=conv(3, 8), b=nn.Linear(8, 5)
    )
    assert agree(model, image).groups == {'a': 8}


def test_kept_dimensions_keep_their_place(net, conv, image, agree):
    model = net(
        lambda m, x: m.b(m.a(x).mean((0, 2), keepdim=True)[..., :1]),
        a=conv(3, 8),
        b=conv(8, 5, 1),
    )
    assert agree(model, image).groups == {'a': 8}


def test_channels_that_are_zero_may_be_summed(net, conv, image, agree):
    model = net(lambda m, x: m.a(x).sum(1), a=conv(3, 8))
    assert agree(model, image).groups == {'a': 8}


def test_spatial_attention_by_sums(net, conv, image, agree):
    """The sum over channels reads zeros; the gate has no channels."""

    def forward(m, x):
        x = m.a(x)
        return m.b(x * x.sum(1, keepdim=True).sigmoid())

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


FROZEN = {
    'mean': lambda x: x.mean(1),
    'mean of all': lambda x: x.mean(),
    'max': lambda x: x.amax(1),
    'least norm': lambda x: x.norm(-1, dim=1),
    'norm of what is not zero': lambda x: x.sigmoid().norm(dim=1),
    'spread': lambda x: x.std(1),
    'index': lambda x: x.argmax(1),
    'sum of what is not zero': lambda x: x.sigmoid().sum(1),
    'sum of all that is not zero': lambda x: x.exp().sum(),
}


@pytest.mark.parametrize('name', FROZEN)
def test_reductions_over_channels_are_frozen(net, conv, image, frozen, name):
    reduce = FROZEN[name]
    model = net(lambda m, x: reduce(m.a(x)), a=conv(3, 8))
    assert frozen(model, image)['a'].startswith('reduced over channels by')


NORMS = {
    'normalize': functional.normalize,
    'of other order': lambda x: functional.normalize(x, p=1.5),
    'largest': lambda x: x / (1 + x.norm(float('inf'), 1, keepdim=True)),
    'of all': lambda x: x / torch.linalg.vector_norm(x),
}


@pytest.mark.parametrize('name', NORMS)
def test_zeros_add_nothing_to_a_norm(net, conv, image, agree, name):
    model = net(
        lambda m, x: m.b(NORMS[name](m.a(x))), a=conv(3, 8), b=conv(8, 5)
    )
    assert agree(model, image).groups == {'a': 8}


def test_softmax_over_channels_is_frozen(net, conv, image, frozen):
    model = net(
        lambda m, x: m.b(m.a(x).softmax(1)), a=conv(3, 8), b=conv(8, 5)
    )
    assert frozen(model, image)['a'] == 'aten::_softmax over channels'


def test_resizing_along_channels_is_frozen(net, conv, image, frozen):
    def forward(m, x):
        tokens = m.a(x).flatten(2).transpose(1, 2)
        return functional.avg_pool1d(tokens, 2)

    model = net(forward, a=conv(3, 8))
    assert frozen(model, image)['a'].startswith('resized by aten::avg_pool2d')


def test_a_norm_over_neighbouring_channels_is_frozen(net, conv, image, frozen):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=nn.LocalResponseNorm(3),
        b=conv(8, 5),
    )
    assert frozen(model, image)['a'].startswith('resized by')


UNKNOWN = {
    'cdist': lambda x: torch.cdist(x, x),
    'renorm': lambda x: x.renorm(2, 1, 1.0),
    'masked_select': lambda x: x.masked_select(x > 0),
}


@pytest.mark.parametrize('name', UNKNOWN)
def test_unknown_operators_freeze_and_are_named(
    net, conv, image, frozen, name
):
    function = UNKNOWN[name]
    model = net(
        lambda m, x: function(m.a(x)).sum() + m.b(x).sum(),
        a=conv(3, 8),
        b=conv(3, 5),
    )
    assert frozen(model, image)['a'].endswith('unknown here')


@pytest.mark.parametrize('measure', ['std', 'norm'])
def test_a_weight_divided_by_its_size_is_frozen(
    net, conv, image, frozen, measure
):
    """Masked, a filter would be zero by zero."""

    def forward(m, x):
        size = getattr(m.weight.flatten(1), measure)(dim=1)
        weight = m.weight / size[:, None, None, None]
        return m.b(functional.conv2d(x, weight, padding=1))

    weight = nn.Parameter(torch.randn(8, 3, 3, 3))
    model = net(forward, weight=weight, b=conv(8, 5))
    (reason,) = {v for k, v in frozen(model, image).items() if k != 'b'}
    assert (
        reason
        == {
            'std': 'aten::div of zero is not finite',
            'norm': 'measured by aten::linalg_vector_norm',
        }[measure]
    )


@pytest.mark.parametrize('order', [0.5, 1, 2, 3, float('inf')])
def test_the_length_of_what_is_zero_where_removed(
    net, conv, image, agree, order
):
    model = net(
        lambda m, x: m.b(functional.normalize(m.a(x), order, dim=1)),
        a=conv(3, 8),
        b=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 8}


@pytest.mark.parametrize(
    'length',
    [
        lambda x: x.sigmoid().norm(dim=1, keepdim=True),
        lambda x: x.norm(-1, dim=1, keepdim=True),
    ],
    ids=['not zero', 'smallest'],
)
def test_another_length_is_frozen(net, conv, image, frozen, length):
    def forward(m, x):
        x = m.a(x)
        return m.b(x * length(x))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert frozen(model, image)['a'].startswith('reduced over channels')
