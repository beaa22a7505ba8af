# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Code that looks at what numbers of channels leave over."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from mmlapp.core import Way, analyse


def made(net, conv, asks, width):
    """Doubles what is positive, or not."""
    return net(
        lambda m, x: m.c(2 * y.relu() if asks((y := m.a(x)).shape[1]) else y),
        a=conv(3, width),
        c=conv(width, 5),
    )


@pytest.mark.parametrize(
    ('width', 'divisor'), [*product((8, 9, 10), (3, 4, 5))]
)
def test_no_number_may_come_out_otherwise(
    net, conv, image, frozen, width, divisor
):
    """At some number of channels each of them does."""
    model = made(net, conv, lambda number: number % divisor == 0, width)
    assert 'compute something else' in frozen(model, image)['a']


def test_what_can_be_divided_where_it_seems_tried(net, conv, image, frozen):
    """Of six channels three are tried, and one where all is positive."""
    model = net(
        lambda m, x: m.c(y if (y := m.b(m.a(x))).shape[1] % 3 else y.relu()),
        a=conv(3, 10),
        b=conv(10, 6),
        c=conv(6, 5),
    )
    assert 'compute something else' in frozen(model, image)['b']


@pytest.mark.parametrize('left', range(5))
def test_every_remainder_is_tried(net, conv, image, frozen, left):
    model = made(net, conv, lambda n: divmod(n, 5)[1] == left, 11)
    assert 'compute something else' in frozen(model, image)['a']


OTHERS = {
    'one more': lambda n: (n + 3) % 7 == 1,
    'what is missing': lambda n: -n % 5 == 0,
    'a part': lambda n: n // 2 % 3 == 1,
    'a fraction': lambda n: n * 0.5 % 2 == 1.5,
    'what it divides': lambda n: 60 % n == 0,
}


@pytest.mark.parametrize('name', OTHERS)
def test_remainders_of_what_is_computed(net, conv, image, frozen, name):
    model = made(net, conv, OTHERS[name], 11)
    assert 'compute something else' in frozen(model, image)['a']


def test_remainders_of_elements(net, conv, image, frozen):
    model = net(
        lambda m, x: m.c(y.relu() if (y := m.a(x)).numel() % 5 == 0 else y),
        a=conv(3, 11),
        c=conv(11, 5),
    )
    assert 'compute something else' in frozen(model, image)['a']


def test_joined_channels(net, conv, image, agree_everywhere, frozen):
    """Five and four: with all of one the other one leads to a multiple."""

    def forward(m, x):
        y = torch.cat([m.a(x), m.b(x)], 1)
        return m.c(2 * y.relu() if y.shape[1] % 6 == 0 else y)

    model = net(forward, a=conv(3, 5), b=conv(3, 4), c=conv(9, 5))
    assert {'a', 'b'} <= set(frozen(model, image))


def test_what_does_no_harm(net, conv, image, agree_everywhere):
    model = net(
        lambda m, x: m.c(y + y if (y := m.a(x)).shape[1] % 4 else 2 * y),
        a=conv(3, 10),
        c=conv(10, 5),
    )
    assert agree_everywhere(model, image) == {'a': 1}


def test_norms_of_torch_divide_numbers_themselves(conv, image):
    model = nn.Sequential(conv(3, 9), nn.GroupNorm(3, 9), conv(9, 5)).double()
    assert analyse(model, image).trace.remainders == []


def test_other_ways_are_not_tried_at_every_remainder(net, conv, image):
    example, loss = [], []
    model = net(
        lambda m, x: m.c(y + y if (y := m.a(x)).shape[1] % 4 else 2 * y),
        a=conv(3, 10),
        c=conv(10, 5),
    ).float()

    def noting(widths):
        def run():
            widths.append(len(model.a.weight))
            return model(image.float())

        return run

    way = Way(noting(loss), 'loss', train=True, compare=False, proven=True)
    analyse(model, noting(example), also=[way])
    assert {n % 4 for n in example} == {0, 1, 2, 3}
    # Narrowed for some and for one of them, and masked.
    assert len(loss) == 3


class Padding(nn.Module):
    """As of mmpretrain's DaViT, which takes channels for columns."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def missing(self, number):
        # Of 5 one is missing to 3 times 2.
        return max(math.ceil(number / self.stride) * self.stride - number, 0)


class Joining(Padding):
    def forward(self, x):
        many = self.missing(x.shape[1])
        return torch.cat([x, x[:, :many]], 1) if many > 0 else x


class Doubling(Padding):
    def forward(self, x):
        return 2 * x if self.missing(x.shape[1]) > 0 else x


def padded(net, conv, padding):
    return net(
        lambda m, x: m.c(m.pad(m.a(x).relu())),
        a=conv(3, 24),
        pad=padding,
        c=conv(24, 5),
    )


@pytest.mark.parametrize('stride', [2, 4])
def test_what_does_not_run_with_odd_numbers_goes_in_parts(
    net, conv, image, stride
):
    model = padded(net, conv, Joining(stride))
    (group,) = analyse(model, image).groups.prunable
    assert (group.size, group.block) == (24 // stride, stride)


def test_what_computes_something_else_with_odd_numbers_stays(
    net, conv, image, frozen
):
    model = padded(net, conv, Doubling(2))
    assert 'compute something else' in frozen(model, image)['a']
