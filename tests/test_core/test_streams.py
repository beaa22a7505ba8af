# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Residual streams stay whole, whatever the network; other widths do not."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import PruningError, PruningWarning, analyse, attach
from mmlapp.core.streams import KEPT


@pytest.fixture
def widths(image):
    """Groups that are prunable, and layers whose channels are a stream."""

    def find(model, x=image, **settings):
        found = analyse(model, x, keep_streams=True, **settings).groups
        kept = [entry.layer for entry in found.frozen if entry.reason == KEPT]
        return [group.name for group in found.prunable], kept

    return find


@pytest.fixture
def resnet(net, conv):
    """Two basic blocks, the second with a convolution in its shortcut."""

    def forward(m, x):
        x = m.stem(x).relu()
        x = x + m.b(m.a(x).relu())
        x = m.down(x) + m.d(m.c(x).relu())
        return m.head(x.relu().mean((2, 3)))

    return net(
        forward,
        stem=conv(3, 6),
        a=conv(6, 6),
        b=conv(6, 6),
        down=conv(6, 8, 1),
        c=conv(6, 8),
        d=conv(8, 8),
        head=nn.Linear(8, 5),
    )


def test_basic_blocks(resnet, widths):
    assert widths(resnet) == (['a', 'c'], ['stem', 'down'])


def test_what_is_left_computes_the_same_as_its_masked_twin(
    resnet, image, agree
):
    assert agree(resnet, image, keep_streams=True).groups == {'a': 6, 'c': 8}


@pytest.mark.parametrize(
    'add',
    [
        lambda x, y: x.add_(y),
        lambda x, y: y - x,
        lambda x, y: torch.addcmul(x, y, torch.tensor(0.5).double()),
        lambda x, y: torch.lerp(x, y, 0.3),
    ],
    ids=['in place', 'difference', 'scaled', 'weighted'],
)
def test_ways_to_add(net, conv, widths, add):
    model = net(
        lambda m, x: m.head(add(x := m.stem(x), m.b(m.a(x).relu()))),
        stem=conv(3, 6), a=conv(6, 6), b=conv(6, 6), head=conv(6, 5),
    )  # fmt: skip
    assert widths(model) == (['a'], ['stem'])


def test_inverted_residuals(net, conv, widths):
    """A stage without shortcut adds nothing: its width is free."""

    def block(inputs, outputs):
        return nn.Sequential(
            conv(inputs, 12, 1), nn.BatchNorm2d(12), nn.ReLU6(),
            conv(12, 12, groups=12), nn.ReLU6(), conv(12, outputs, 1),
        )  # fmt: skip

    def forward(m, x):
        x = m.two(m.one(x))
        return m.head(x + m.three(x))

    model = net(
        forward,
        one=block(3, 6), two=block(6, 8), three=block(8, 8), head=conv(8, 5),
    )  # fmt: skip
    assert widths(model) == (
        ['one.0', 'one.5', 'two.0', 'three.0'],
        ['two.5'],
    )


def test_convnext(net, conv, widths):
    """The depthwise convolution reads the stream and adds nothing to it."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.depthwise = conv(8, 8, groups=8)
            self.norm = nn.LayerNorm(8)
            self.wide, self.back = nn.Linear(8, 16), nn.Linear(16, 8)
            self.scale = nn.Parameter(torch.full((8,), 0.1))

        def forward(self, x):
            y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
            y = self.scale * self.back(functional.gelu(self.wide(y)))
            return x + y.permute(0, 3, 1, 2)

    model = net(
        lambda m, x: m.head(m.blocks(m.stem(x)).mean((2, 3))),
        stem=conv(3, 8),
        blocks=nn.Sequential(Block(), Block()),
        head=nn.Linear(8, 5),
    )
    free, kept = widths(model)
    assert free == ['blocks.0.wide', 'blocks.1.wide']
    assert kept[0] == 'stem'


def test_vision_transformers(net, conv, widths):
    """Heads are multiplied and not added: they go, as hidden widths do."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
            self.out = nn.Linear(8, 8)
            self.wide, self.back = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            q, k, v = (
                part(x).unflatten(2, (-1, 2)).transpose(1, 2)
                for part in (self.q, self.k, self.v)
            )
            y = functional.scaled_dot_product_attention(q, k, v)
            x = x + self.out(y.transpose(1, 2).flatten(2))
            return x + self.back(functional.gelu(self.wide(x)))

    def forward(m, x):
        x = m.embed(x).flatten(2).transpose(1, 2) + m.place.weight
        return m.head(m.block(x).mean(1))

    model = net(
        forward,
        embed=nn.Conv2d(3, 8, 4, stride=4),
        place=nn.Embedding(4, 8),
        block=Block(),
        head=nn.Linear(8, 5),
    )
    free, kept = widths(model)
    assert 'block.wide' in free
    assert 'block.q' in free
    assert kept == ['embed']


def test_feature_pyramids(net, conv, widths):
    """Levels are added up; what a shared head computes of them is free."""

    def forward(m, x):
        low = m.one(x).relu()
        high = m.two(low).relu()
        top = m.side2(high)
        both = m.side1(low) + functional.interpolate(top, scale_factor=2)
        return [m.out(m.tower(p).relu()) for p in (both, top)]

    model = net(
        forward,
        one=conv(3, 6),
        two=conv(6, 8, stride=2),
        side1=conv(6, 7, 1),
        side2=conv(8, 7, 1),
        tower=conv(7, 9),
        out=conv(9, 5),
    )
    assert widths(model) == (['one', 'two', 'tower'], ['side2'])


@pytest.mark.parametrize(
    'forward',
    [
        lambda m, x: (x := m.a(x)) * m.b(x).sigmoid(),
        lambda m, x: (x := m.a(x)) + x * m.b(x).sigmoid(),
        lambda m, x: (x := m.a(x)) + m.depthwise(x),
        lambda m, x: m.a(x) + m.scale.weight[:, None, None],
        lambda m, x: m.a(x) + m.a(-x),
        lambda m, x: m.a(x) + x.mean(),
    ],
    ids=['gate', 'gate of one', 'depthwise', 'bias', 'same layer', 'mean'],
)
def test_what_is_no_stream(net, conv, image, forward):
    """And a network without any is told of."""
    parts = dict(
        a=conv(3, 6),
        b=conv(6, 6),
        depthwise=conv(6, 6, groups=6),
        scale=nn.BatchNorm2d(6),
        head=conv(6, 5),
    )
    model = net(lambda m, x: m.head(forward(m, x).relu()), **parts)
    with pytest.warns(PruningWarning, match='keep_streams=True: no two layer'):
        found = analyse(
            model, image, unused=['b', 'depthwise', 'scale'], keep_streams=True
        )
    assert [group.name for group in found.groups.prunable] == ['a']


def test_a_target_out_of_reach_names_the_setting(resnet, image):
    """One channel of a and c: streams of 6 and 8 are read and written."""
    free = attach(copy.deepcopy(resnet), image)
    pruner = attach(resnet, image, keep_streams=True)
    lowest = 9 * (3 * 6 + 6 + 6 + 6 + 8) * 64 + 6 * 8 * 64 + 8 * 5
    lowest *= 2 / pruner.cost('flops').dense  # two images
    with pytest.raises(PruningError, match=f'{lowest:.4f}.* leave out keep_s'):
        pruner.begin({'flops': 0.99 * lowest}, 4)
    free.begin({'flops': 0.5 * lowest}, 4)  # as it says
    pruner.begin({'flops': 1.001 * lowest}, 4)
    pruner.finish()
    assert list(pruner.keep_ratios().values()) == [1 / 6, 1 / 8]


def test_nothing_but_a_stream(net, conv, image):
    model = net(
        lambda m, x: m.head(m.a(x) + m.b(x)),
        a=conv(3, 6), b=conv(3, 6), head=conv(6, 5),
    )  # fmt: skip
    with pytest.raises(PruningError, match=r'no channel.*keep_streams=True'):
        attach(model, image, keep_streams=True)


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        (dict(keep_streams=1), 'keep_streams=1: expected True or False'),
        (
            dict(keep_streams=True, unit='stripes'),
            r"keep_streams=True: unit='stripes' leaves .* Leave keep_streams",
        ),
        (
            dict(keep_streams=True, unit='filters', bypass='pointwise'),
            r"keep_streams=True: unit='filters' leaves .* Leave keep_streams",
        ),
    ],
)
def test_settings_without_effect_are_refused(resnet, image, settings, text):
    with pytest.raises(PruningError, match=text):
        attach(resnet, image, **settings)
    assert not hasattr(resnet, 'pruner')
