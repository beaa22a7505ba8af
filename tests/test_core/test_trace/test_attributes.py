# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes in which a forward finds how many channels there are."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import ChannelPlan, PruningError, analyse, narrow
from mmlapp.core.trace import trace
from mmlapp.core.trace.attributes import count_at, counts_in, recount


class Dynamic(nn.Module):
    """Gain and shift for every channel, computed from all of them."""

    def __init__(self):
        super().__init__()
        self.channels = 6
        self.squeeze, self.excite = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x):
        y = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu())
        gain, shift = torch.split(y, self.channels, dim=1)
        return x * gain + shift


class Decomposition(nn.Module):
    """A product of a weight with one that the network computes."""

    def __init__(self):
        super().__init__()
        self.channels, self.pieces = 4, 2
        self.total = 8
        self.attend = nn.Conv2d(8, 2, 1)
        self.reduce = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x):
        n, _, h, w = x.shape
        weight = self.attend(x.mean((2, 3), keepdim=True)).sigmoid()
        weight = weight.reshape(n, 1, self.pieces, 1) * (
            self.reduce.weight.reshape(
                1, self.channels, self.pieces, self.channels
            )
        )
        weight = weight.reshape(n, self.channels, self.total)
        x = torch.bmm(weight, x.reshape(n, self.total, h * w))
        return x.reshape(n, self.channels, h, w).relu()


class Scale(nn.Module):
    """A factor for every channel, in a shape that it notes down."""

    def __init__(self):
        super().__init__()
        self.shape = (6, 1, 1)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x):
        return x * self.scale.view(self.shape)


class Heads(nn.Module):
    """Heads of a width that is noted down beside their number."""

    def __init__(self):
        super().__init__()
        self.heads, self.each = 2, 4
        self.qkv = nn.Conv2d(6, 24, 1)

    def forward(self, x):
        n, _, h, w = x.shape
        y = self.qkv(x).view(n, 3, self.heads, self.each, h * w)
        q, k, v = y.unbind(1)
        y = v @ (q.transpose(2, 3) @ k).softmax(-1)
        return y.reshape(n, self.heads * self.each, h, w)


BLOCKS = {
    'dynamic': (Dynamic(), 6, 6, {'a': 6, 'block.squeeze': 4}),
    'scale': (Scale(), 6, 6, {'a': 6}),
    'heads': (Heads(), 6, 8, {'a': 6, 'block.qkv': 2}),
}


@pytest.mark.parametrize('name', BLOCKS)
def test_attributes_follow_the_channels(net, conv, image, agree, name):
    block, read, returned, groups = BLOCKS[name]
    model = net(
        lambda m, x: m.b(m.block(m.a(x))),
        a=conv(3, read),
        block=copy.deepcopy(block),
        b=conv(returned, 5),
    )
    before = dict(vars(model.block))
    found = agree(model, image)
    assert found.groups == groups
    # In the network that is only masked they stay what they were.
    after = vars(found.model.block)
    for key, value in before.items():
        if type(value) in (int, tuple):
            assert type(after[key]) is type(value)
            assert after[key] == value


def test_one_that_counts_two_dimensions_ties_them(net, conv, image, agree):
    """Rows of the weight with columns in every piece, and with the input."""
    model = net(
        lambda m, x: m.b(m.block(torch.cat([m.a(x), m.c(x)], 1))),
        a=conv(3, 4),
        c=conv(3, 4),
        block=Decomposition(),
        b=conv(4, 5),
    )
    found = agree(model, image)
    assert found.groups == {'a': 4}
    assert (found.slim.block.channels, found.slim.block.total) == (2, 4)
    assert found.slim.block.pieces == 2


def test_a_plan_tells_an_attribute_that_is_another(net, conv, image, agree):
    def build():
        return net(
            lambda m, x: m.b(m.block(m.a(x))),
            a=conv(3, 6),
            block=Scale(),
            b=conv(6, 5),
        )

    plan = agree(build(), image).plan
    assert isinstance(plan, ChannelPlan)
    other = build()
    other.block.shape = (1, 6, 6)
    with pytest.raises(PruningError, match='shape is'):
        narrow(other, plan)


def test_code_that_wants_an_int_gets_one(net, conv, image, agree):
    """As it is, where it insists on a number that is nothing else."""

    class Strict(Dynamic):
        def forward(self, x):
            assert {type(self.channels), type(x.shape[1])} == {int}
            return super().forward(x)

    model = net(
        lambda m, x: m.b(m.block(m.a(x))),
        a=conv(3, 6),
        block=Strict(),
        b=conv(6, 5),
    ).eval()
    sizes = {g.name: g.size for g in analyse(model, image).groups.prunable}
    assert sizes == {'block.squeeze': 4}


def test_what_a_forward_notes_down_is_a_number(net, conv, image):
    noted = []

    def forward(m, x):
        y = m.a(x)
        m.noted = y.shape[1]
        noted.append(copy.deepcopy(m.noted))
        return m.b(y.view(2, m.noted, 8, 8))

    model = net(forward, a=conv(3, 8), b=conv(8, 5)).eval()
    found = analyse(model, image)
    assert [g.size for g in found.groups.prunable] == [8]
    assert {type(number) for number in noted} == {int}
    assert not hasattr(model, 'noted')


def test_numbers_in_attributes():
    values = [1, 7], (-1, 4), 5, True, 'a', (), (4, 1, 6), (2, 3.0)
    found = [{'': 7}, {'': 4}, {'': 5}, {}, {}, {}, {'[0]': 4, '[2]': 6}, {}]
    assert [counts_in(value) for value in values] == found


def test_a_list_is_replaced_and_not_changed():
    module, shared = nn.Module(), [5, 1, 7]
    module.sizes = shared
    assert [count_at(module, f'sizes[{i}]') for i in range(4)] == [
        *(5, None, 7, None)
    ]
    assert count_at(module, 'sizes') is None
    recount(module, 'sizes[2]', 3)
    assert (module.sizes, shared) == ([5, 1, 3], [5, 1, 7])


def test_sums_that_a_forward_notes_down_are_numbers(net, conv, image):
    noted = []

    def forward(m, x):
        y = m.a(x)
        m.noted = y.shape[1] + y.shape[1]
        noted.append(copy.deepcopy(m.noted))
        return m.b(torch.cat([y, y], 1).view(2, m.noted, 8, 8))

    model = net(forward, a=conv(3, 8), b=conv(16, 5)).eval()
    found = analyse(model, image)
    assert [g.size for g in found.groups.prunable] == [8]
    assert {type(number) for number in noted} == {int}


def test_a_trace_leaves_plain_numbers_behind(net, conv, image):
    """In whatever way a forward has computed what it keeps."""

    def forward(m, x):
        y = m.a(x)
        count = y.shape[1]
        m.noted, m.twice, m.more = count, count + count, count // 3 + 1
        m.part = count / 5
        return m.b(y)

    model = net(forward, a=conv(3, 8), b=conv(8, 5)).eval()
    trace(model, lambda: model(image))
    noted = model.noted, model.twice, model.more
    assert noted == (8, 16, 3)
    assert {type(number) for number in noted} == {int}
    assert (type(model.part), model.part) == (float, 1.6)
