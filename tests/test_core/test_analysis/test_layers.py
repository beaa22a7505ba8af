# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What every layer gives: seen where the outputs show nothing."""

import pytest
import torch
from torch import nn

from mmlapp.core import analyse
from mmlapp.core.analysis.layers import Given, comparable_layers
from mmlapp.core.trace import trace

OTHER = 'with fewer of them, the network would compute something else'
# What returns the same, whatever comes in, or nearly so.
HIDING = {
    'constant': lambda x: x * 0,
    'sign': lambda x: (x.square() + 1).sign(),
    'saturated': lambda x: (x.abs() * 1e3 + 1e3).sigmoid(),
}


def flipped(y):
    return y.relu() if y.shape[1] > 7 else -y


@pytest.mark.parametrize('name', HIDING)
def test_what_the_outputs_hide_is_frozen(net, conv, image, frozen, name):
    def forward(m, x):
        return HIDING[name](m.c(m.b(flipped(m.a(x)))))

    model = net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 4))
    assert frozen(model, image)['a'] == OTHER
    names = [g.name for g in analyse(model, image).groups.prunable]
    assert names == ['b']


def test_what_nothing_is_wrong_with_stays_prunable(net, conv, image, frozen):
    def forward(m, x):
        return m.c(m.b(m.a(x).relu())) * 0

    model = net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 4))
    assert frozen(model, image) == {'c': 'output of the network'}


class Mixer(nn.Module):
    """A layer along positions, which gives its bias for every channel."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 5)
        self.mix = nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.mix(self.a(x).mT).mT)


def test_layers_along_positions_are_not_compared():
    model, x = Mixer().double(), torch.rand(2, 4, 3).double()
    record = trace(model, lambda: model(x))
    found = comparable_layers(model, record)
    assert model.a in found
    assert model.mix not in found
    groups = analyse(model, x).groups
    assert [group.name for group in groups.prunable] == ['a']


def test_layers_that_run_twice_are_not_compared(conv, image):
    model = nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 4)).double()
    model.append(model[1]).append(model[2])
    forward = nn.Sequential(*model[:2], model[1], model[2])
    record = trace(model, lambda: forward(image))
    assert set(comparable_layers(model, record)) == {model[0], model[2]}


def test_sizes_of_layers():
    """Of y = (1, -3) at each position: 1 + 1 / 2 and 3 - 3 / 2."""
    linear, conv = nn.Linear(2, 2), nn.Conv2d(2, 2, 1)
    given = Given({conv: torch.tensor([False, True]), linear: None})
    y = torch.tensor([1.0, -3.0])
    given.left(linear, (), y.expand(5, 4, 2))
    assert given.sizes().tolist() == [1.5, 1.5]
    given.left(nn.ReLU(), (), y)
    given.left(conv, (), 2 * y.view(2, 1, 1).expand(5, 2, 3, 3))
    assert given.sizes().tolist() == [3, 1.5, 1.5]
    given.left(linear, (), 3 * y)  # without a batch
    assert given.sizes().tolist() == [3, 4.5, 4.5]
    given.left(linear, (), y)
    given.left(conv, (), torch.full((1, 2, 1, 1), float('inf')))
    assert given.sizes().tolist() == [0, 1.5, 1.5]


def test_what_is_written_later_is_not_measured():
    """As by the ReLU behind a layer that works in place."""
    linear, y = nn.Linear(2, 2), torch.tensor([1.0, -3.0]).double()
    given = Given({linear: None})
    given.left(linear, (), y)
    y.relu_()
    assert given.sizes().tolist() == [1.5, 1.5]


class Packed(nn.Linear):
    def forward(self, x):
        return super().forward(x), None


class Turned(nn.Linear):
    def forward(self, x):
        return super().forward(x).mT


def test_layers_that_give_something_else_are_not_compared(net, agree):
    """A tuple, or dimensions in an order of their own."""

    def forward(m, x):
        return m.c(m.b(m.a(x)[0]).mT)

    parts = {'a': Packed(3, 8), 'b': Turned(8, 6), 'c': nn.Linear(6, 4)}
    model, x = net(forward, **parts), torch.rand(2, 5, 3).double()
    assert agree(model, x).groups == {'a': 8, 'b': 6}


def test_what_has_no_values_is_not_measured():
    layer = nn.Linear(2, 3)
    given = Given({layer: None})
    layer.register_forward_hook(given.left)
    torch.vmap(layer)(torch.rand(4, 2))
    layer(torch.rand(0, 2))
    assert not given.found
    layer(torch.rand(4, 2))
    assert given.found


def test_layers_without_a_batch_are_compared():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = analyse(model, torch.rand(3)).groups
    assert [group.name for group in groups.prunable] == ['0']


def test_rounding_in_layers_alone_is_not_told(net, conv, image, recwarn):
    """Twice the rounding error of a sum, which no output shows."""

    def forward(m, x):
        y = m.a(x)
        noise = (
            y.sum(1, keepdim=True) - y.flip(1).sum(1, keepdim=True)
        ) * 1e16
        return m.d(y) + 0 * m.c(m.b(y) + noise)[:, :4]

    parts = {n: conv(8, 8) for n in 'bc'}
    model = net(forward, a=conv(3, 8), d=conv(8, 4), **parts)
    analyse(model, image)
    assert not recwarn.list


def test_what_a_norm_masks_later_is_not_compared(conv, image, agree):
    """Behind it the bias of a removed channel does not count."""
    depthwise = conv(6, 6, groups=6)
    parts = conv(3, 6), depthwise, nn.BatchNorm2d(6), conv(6, 4)
    assert agree(nn.Sequential(*parts).double(), image).groups == {'0': 6}
