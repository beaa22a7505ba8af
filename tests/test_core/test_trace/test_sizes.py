# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sizes that a forward takes from one tensor and gives to another."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import analyse
from mmlapp.core.trace.sizes import SIZED


def heads_of_the_input(m, x):
    """The width of each head is that of the input, of whatever came out."""
    y = m.a(x).flatten(2).transpose(1, 2)
    n, length, c = y.shape
    q, k, v = m.qkv(y).view(n, length, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
    z = ((q * 0.5) @ k.transpose(2, 3)).softmax(-1) @ v
    y = y + m.proj(z.transpose(1, 2).reshape(n, length, c))
    return m.b(y.transpose(1, 2).reshape(n, c, *x.shape[2:]))


def test_heads_as_wide_as_the_input_shrink_with_it(net, conv, image, agree):
    """Position j of each head with channel j of each half of the input."""
    model = net(
        heads_of_the_input,
        a=conv(3, 12),
        qkv=nn.Linear(12, 36),
        proj=nn.Linear(12, 12),
        b=conv(12, 5),
    )
    # 12 channels in 2 heads; those that attention adds are the same.
    assert agree(model, image).groups == {'a': 6}


def test_a_multiple_shrinks_with_all_its_parts(net, conv, image, agree):
    def forward(m, x):
        y = m.a(x)
        z = m.b(x).view(2, 2 * y.shape[1], 8, 8)
        return m.c(z) + m.d(y)

    parts = {'a': conv(3, 6), 'b': conv(3, 12), 'c': conv(12, 5)}
    model = net(forward, **parts, d=conv(6, 5))
    assert agree(model, image).groups == {'a': 6}


def test_what_is_as_many_already_is_tied_no_more(net, conv, image, agree):
    """Channels that lie interleaved are not those of either half."""

    def forward(m, x):
        y = m.a(x)
        n, c, h, w = y.shape
        return m.b(torch.stack([y, -y], 2).view(n, 2 * c, h, w))

    model = net(forward, a=conv(3, 8), b=conv(16, 5))
    assert agree(model, image).groups == {'a': 8}


def test_as_many_as_something_that_stays(net, conv, image, agree, frozen):
    def forward(m, x):
        y = m.b(x).view(2, m.a(x).shape[1], 8, 8)
        return m.a(x), m.c(y)

    parts = {'a': conv(3, 6), 'b': conv(3, 6), 'c': conv(6, 5)}
    model = net(lambda m, x: forward(m, x)[1], **parts).eval()
    found = analyse(model, lambda: forward(model, image))
    assert found.groups.prunable == []


CONSTANTS = {
    'zeros': lambda y: torch.zeros(2, y.shape[1], 8, 8).to(y),
    'new': lambda y: y.new_zeros((2, y.shape[1], 1, 1)),
    'ones': lambda y: torch.ones(y.shape, dtype=y.dtype),
    'full': lambda y: torch.full(y.shape, 0.3, dtype=y.dtype),
}


@pytest.mark.parametrize('name', CONSTANTS)
def test_a_constant_as_wide_as_channels_is_no_reason_to_stay(
    net, conv, image, agree, name
):
    def forward(m, x):
        y = m.a(x)
        return m.b(torch.cat([y, y + CONSTANTS[name](y)], dim=2))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


def test_a_reason_is_told(net, conv, image, frozen):
    """Six of a padded map are channels, the others are not."""

    def forward(m, x):
        y = functional.pad(m.a(x), (0, 0, 0, 0, 0, 2))
        return m.c(m.b(x).view(2, y.shape[1], 8, 8)) + m.d(y)

    parts = {'a': conv(3, 6), 'b': conv(3, 8), 'c': conv(8, 5)}
    reasons = frozen(net(forward, **parts, d=conv(8, 5)), image)
    assert reasons['b'] == SIZED


class Blur(nn.Module):
    """Filters of a buffer, as many as an attribute says (BlurPool)."""

    def __init__(self):
        super().__init__()
        self.channels = 8
        self.register_buffer('filters', torch.rand(8, 1, 3, 3))

    def forward(self, x):
        return torch.conv2d(x, self.filters, groups=self.channels)


@pytest.mark.parametrize('batched', [True, False])
def test_groups_of_a_call_follow_the_channels(
    net, conv, image, agree, batched
):
    model = net(
        lambda m, x: m.b(m.blur(m.a(x).relu())),
        a=conv(3, 8),
        blur=Blur(),
        b=conv(8, 5),
    )
    found = agree(model, image if batched else image[0])
    assert found.groups == {'a': 8}
    assert found.slim.blur.channels == 4


def refuse(wrong):
    if wrong:
        raise ValueError('this is not what it was built for')


CHECKS = {
    'is': lambda m, y: y.shape[1] == m.channels or refuse(True),
    'is not': lambda m, y: refuse(y.size(1) != m.channels),
    'mirrored': lambda m, y: refuse(m.channels != y.shape[1]),
    'in a list': lambda m, y: refuse(list(y.shape) != [2, m.channels, 8, 8]),
    'a shape': lambda m, y: refuse(y.shape[1:] != (m.channels, 8, 8)),
    'kept in a shape': lambda m, y: refuse(y.shape != m.shape),
    'halves': lambda m, y: refuse(y.shape[1] != m.half * 2),
}


class Checked(nn.Module):
    """Compares what it is given with numbers that it keeps."""

    def __init__(self):
        super().__init__()
        self.channels, self.half, self.shape = 8, 4, (2, 8, 8, 8)

    def forward(self, y):
        self.check(y)
        return y.relu()


@pytest.mark.parametrize('name', CHECKS)
def test_what_is_checked_to_be_as_many_follows(net, conv, image, agree, name):
    # As a method, which the forward calls.
    block = type('Block', (Checked,), {'check': CHECKS[name]})()
    model = net(
        lambda m, x: m.b(m.block(m.a(x))),
        a=conv(3, 8),
        block=block,
        b=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 4 if name == 'halves' else 8}


@pytest.mark.parametrize('width', [3, 8])
def test_what_is_viewed_as_another_one_has_as_many(
    net, conv, image, agree, width
):
    model = net(
        lambda m, x: (
            m.c(m.a(x).relu().flatten(2).view_as(m.b(x))) + m.d(m.b(x))
        ),
        a=conv(3, width),
        b=conv(3, width),
        c=conv(width, 5),
        d=conv(width, 5),
    )
    assert agree(model, image).groups == {'a': width}


class Grouped(nn.Module):
    """Its ``groups`` are not those of the call."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 1, 3, 3))
        self.groups = 2

    def forward(self, x):
        x = x.unflatten(1, (self.groups, -1)).flip(1).flatten(1, 2)
        return functional.conv2d(x, self.weight, groups=x.shape[1])


def test_groups_of_a_call_need_not_be_those_of_the_module(
    net, conv, image, agree
):
    model = net(
        lambda m, x: m.b(m.grouped(m.a(x))),
        a=conv(3, 8),
        grouped=Grouped(8),
        b=conv(8, 5),
    )
    found = agree(model, image)
    assert found.groups == {'a': 4}
    assert found.slim.grouped.groups == 2


def test_a_layer_may_lend_its_weight_to_a_call_with_groups(
    net, conv, image, agree
):
    model = net(
        lambda m, x: m.b(
            functional.conv2d(
                y := m.a(x), m.a.weight[:, :1], groups=y.shape[1]
            )
        ),
        a=conv(3, 8),
        b=conv(8, 5),
    )
    found = agree(model, image)
    assert found.groups == {'a': 8}
    assert found.slim.a.groups == 1
