# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which groups nothing goes around, against networks that lost them."""

import pytest
import torch
from torch import nn

from mmlapp.core import attach


def cut_off(model, pruner, x):
    """Groups without which some output is the same for all images."""
    model(x)  # masks apply from the first forward on
    found = set()
    for name, gate in pruner.by_group(pruner.gate).items():
        gate.zero_()
        ours, others = (tensors(model(x)) for x in (x, x.flip(3) + 1))
        if any(map(torch.equal, ours, others)):
            found.add(name)
        gate.fill_(1)
    return found


def tensors(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else outputs


def chain(m, x):
    return m.head(m.b(m.a(x).relu()).relu())


def residual(m, x):
    x = m.stem(x).relu()
    x = x + m.b(m.a(x).relu())
    x = m.down(x) + m.d(m.c(x).relu())
    return m.head(x.relu())


def branches(m, x):
    x = m.stem(x).relu()
    x = torch.cat([m.left(x), m.right(x)], 1).relu()
    return m.head(m.last(x).relu())


def dense_block(m, x):
    x = m.stem(x).relu()
    x = torch.cat([x, m.a(x).relu()], 1)
    x = torch.cat([x, m.b(x).relu()], 1)
    return m.head(m.last(x).relu())


def squeezed(m, x):
    x = m.stem(x).relu()
    gate = m.up(m.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    return m.head(x * gate)


def separable(m, x):
    x = m.deep(m.stem(x).relu()).relu()
    return m.head(m.wide(x).relu())


def pyramid(m, x):
    """Levels that are added up, and a head with two towers."""
    low = m.one(x).relu()
    x = m.side1(low) + m.side2(m.two(low).relu())
    return m.classes(m.tower1(x).relu()), m.boxes(m.tower2(x).relu())


def returned_and_read(m, x):
    """The first output is all that goes through `a`."""
    first = m.first(m.a(x).relu())
    return first, m.b(first).relu() + m.c(x)


def joined_late(m, x):
    """A layer that runs later goes around the first ones."""
    x = m.one(m.a(x).relu()) + m.two(m.b(x).relu())
    return m.head(x.relu())


def run_twice(m, x):
    x = m.stem(x).relu()
    x = m.again(m.again(x).relu()).relu()
    return m.head(x)


def attention(m, x):
    x = m.stem(x).relu()
    return m.head(x + mixed(m, x))


def attention_alone(m, x):
    return m.head(mixed(m, m.stem(x).relu()))


def mixed(m, x):
    """Two channels a head, all pixels mixed."""
    q, k, v = (
        part(x).flatten(2).unflatten(1, (-1, 2)).transpose(2, 3)
        for part in (m.q, m.k, m.v)
    )
    y = (q @ k.transpose(2, 3)).softmax(3) @ v
    return m.out(y.transpose(2, 3).flatten(1, 2).unflatten(2, (8, 8)))


def non_local(m, x):
    """One head of all channels: which pixels, and what of them."""
    x = m.stem(x).relu()
    q, k, v = (part(x).flatten(2) for part in (m.q, m.k, m.v))
    y = (q.transpose(1, 2) @ k).softmax(2) @ v.transpose(1, 2)
    return m.head(m.out(y.transpose(1, 2).unflatten(2, (8, 8))))


HEADS = dict(
    stem=(3, 8), q=(8, 8), k=(8, 8), v=(8, 8), out=(8, 8), head=(8, 5)
)
# Inputs, outputs and size of the layers by name, and the sole paths.
NETWORKS = {
    chain: (dict(a=(3, 6), b=(6, 8), head=(8, 5)), {'a', 'b'}),
    residual: (
        dict(
            stem=(3, 6), a=(6, 6), b=(6, 6), down=(6, 8, 1), c=(6, 8),
            d=(8, 8), head=(8, 5),
        ),
        {'stem', 'down'},
    ),
    branches: (
        dict(stem=(3, 6), left=(6, 4), right=(6, 5), last=(9, 6), head=(6, 5)),
        {'stem', 'last'},
    ),
    dense_block: (
        dict(stem=(3, 6), a=(6, 4), b=(10, 4), last=(14, 6), head=(6, 5)),
        {'stem', 'last'},
    ),
    squeezed: (
        dict(stem=(3, 6), down=(6, 4, 1), up=(4, 6, 1), head=(6, 5)),
        {'stem'},
    ),
    separable: (
        dict(stem=(3, 6), deep=(6, 6), wide=(6, 8, 1), head=(8, 5)),
        {'stem', 'wide'},
    ),
    pyramid: (
        dict(
            one=(3, 6), two=(6, 8), side1=(6, 7, 1), side2=(8, 7, 1),
            tower1=(7, 6), tower2=(7, 6), classes=(6, 5), boxes=(6, 4),
        ),
        {'one', 'side1', 'tower1', 'tower2'},
    ),
    returned_and_read: (
        dict(a=(3, 6), first=(6, 7), b=(7, 4), c=(3, 4)),
        {'a'},
    ),
    joined_late: (
        dict(a=(3, 6), one=(6, 7), b=(3, 6), two=(6, 7), head=(7, 5)),
        {'one'},
    ),
    run_twice: (dict(stem=(3, 6), again=(6, 6), head=(6, 5)), {'stem'}),
    attention: (HEADS, {'stem'}),
    non_local: (HEADS, {'stem', 'v', 'out'}),
    attention_alone: (HEADS, {'stem', 'q', 'out'}),
}  # fmt: skip


@pytest.fixture
def build(net, conv):
    """Makes one of the networks."""

    def make(function, parts):
        layers = {name: conv(*sizes) for name, sizes in parts.items()}
        if 'deep' in layers:
            layers['deep'] = conv(6, 6, groups=6)
        return net(function, **layers)

    return make


@pytest.mark.parametrize('function', NETWORKS)
def test_as_networks_without_them_show(build, image, function):
    """What is told, and what does no more tell images apart."""
    parts, expected = NETWORKS[function]
    model = build(function, parts)
    pruner = attach(model, image)
    assert {g.name for g in pruner.groups if g.sole_path} == expected
    assert cut_off(model, pruner, image) == expected


def test_levels_of_a_pyramid_stand_for_each_other(build, image):
    """They share channels: another one emits them, for another output."""

    def forward(m, x):
        low = m.one(x).relu()
        top = m.side2(m.two(low).relu())
        return [m.tower(p).relu() for p in (m.side1(low) + top, top)]

    parts = dict(
        one=(3, 6), two=(6, 8), side1=(6, 7, 1), side2=(8, 7, 1), tower=(7, 6)
    )
    pruner = attach(build(forward, parts), image)
    told = {g.name: g.sole_path for g in pruner.groups}
    assert told == {'one': True, 'two': False, 'side2': True}


def test_an_output_that_has_no_channels(build, image):
    """The layer that nothing reads is the end."""
    parts, expected = NETWORKS[chain]
    pruner = attach(build(lambda m, x: chain(m, x).argmax(1), parts), image)
    assert {g.name for g in pruner.groups if g.sole_path} == expected


def test_a_bypass_goes_around_its_layer(build, image):
    parts, _ = NETWORKS[chain]
    pruner = attach(
        build(chain, parts), image, unit='filters', bypass='pointwise'
    )
    assert len(pruner.groups) == 3
    assert not any(g.sole_path for g in pruner.groups)


def test_words_are_the_input(net):
    """A stream that begins with a table, and what is beside it."""

    def forward(m, i):
        x = m.words(i)
        return m.head(x + m.back(m.wide(x).relu()))

    model = net(
        forward,
        words=nn.Embedding(9, 8),
        wide=nn.Linear(8, 6),
        back=nn.Linear(6, 8),
        head=nn.Linear(8, 5),
    )
    pruner = attach(model, torch.randint(9, (2, 7)))
    assert {g.name for g in pruner.groups if g.sole_path} == {'words'}


def test_positions_tell_nothing_of_an_image(net):
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu()) + m.places(torch.arange(7))),
        a=nn.Linear(3, 8),
        b=nn.Linear(8, 6),
        c=nn.Linear(6, 5),
        places=nn.Embedding(7, 6),
    )
    pruner = attach(model, torch.rand(2, 7, 3).double())
    assert {g.name for g in pruner.groups if g.sole_path} == {'a', 'b'}
