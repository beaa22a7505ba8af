# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Cuts at numbers that attributes and shapes tell, which follow channels."""

import pytest
import torch
from mmdet.models.backbones.res2net import Bottle2neck as DetBottle2neck
from mmpretrain.models.backbones.edgenext import SDTAEncoder
from mmpretrain.models.backbones.res2net import Bottle2neck
from torch import nn

from mmlapp.core import PruningError, attach, narrow


class Cut(nn.Module):
    """Two pieces of 6 and 10 channels that go different ways."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.first, self.other, self.whole = 6, 10, 16
        self.sizes = 6, 10
        self.a, self.b = nn.Conv2d(6, 5, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x):
        first, other = self.cut(self, x)
        return torch.cat([self.a(first), self.b(other)], 1)


CUTS = {
    'a list of sizes': lambda m, x: x.split([m.first, m.other], 1),
    'a tuple of sizes': lambda m, x: torch.split(x, m.sizes, dim=1),
    'sizes of C++': lambda m, x: x.split_with_sizes(m.sizes, 1),
    'what the shape leaves': lambda m, x: x.split(
        [m.first, x.shape[1] - m.first], 1
    ),
    'what an attribute leaves': lambda m, x: x.split(
        [m.first, m.whole - m.first], 1
    ),
    'slices of what is left': lambda m, x: (
        x[:, : m.whole - m.other],
        x[:, m.whole - m.other : m.whole],
    ),
    'slices': lambda m, x: (x[:, : m.first], x[:, m.first :]),
    'from the end': lambda m, x: (x[:, : -m.other], x[:, -m.other :]),
    'slices of a sum': lambda m, x: (
        x[:, : m.sizes[0]],
        x[:, m.sizes[0] : sum(m.sizes)],
    ),
    'narrow': lambda m, x: (
        x.narrow(1, 0, m.first),
        torch.narrow(x, 1, m.first, m.other),
    ),
}


class Cutting(Cut):
    """With names that its forward reads."""

    def forward(self, x):
        read = (self.first, self.other, self.whole, self.sizes)
        assert read
        return super().forward(x)


@pytest.mark.parametrize('name', CUTS)
def test_pieces_are_free_where_the_cut_follows(net, conv, image, agree, name):
    model = net(
        lambda m, x: m.c(m.cut(m.stem(x).relu())),
        stem=conv(3, 16),
        cut=Cutting(CUTS[name]),
        c=conv(9, 5),
    )
    result = agree(model, image)
    assert sorted(result.groups.values()) == [4, 5, 6, 10]
    cut = result.slim.cut
    assert cut.a.in_channels == 3
    assert cut.b.in_channels == 5


CONSTANT = {
    'sizes': lambda m, x: x.split([6, 10], 1),
    'slices': lambda m, x: (x[:, :6], x[:, 6:]),
    'shifted': lambda m, x: (x[:, : m.first + 0 * 1], x[:, 7 - 1 :]),
    'one of two': lambda m, x: x.split([m.first, 10], 1),
    'with a step': lambda m, x: (
        x[:, : 2 * m.first : 2],
        x[:, m.first :],
    ),
}


@pytest.mark.parametrize('name', CONSTANT)
def test_a_cut_at_a_constant_is_frozen(net, conv, image, frozen, name):
    model = net(
        lambda m, x: m.c(m.cut(m.stem(x).relu())),
        stem=conv(3, 16),
        cut=Cutting(CONSTANT[name]),
        c=conv(9, 5),
    )
    reason = 'cut at a position that is a constant of the code'
    assert frozen(model, image)['stem'] == reason


class Loop(nn.Module):
    """Pieces of one width, each of which adds to the next one (Res2Net)."""

    def __init__(self, width, nums, groups=1, sliced=False):
        super().__init__()
        self.width, self.nums, self.sliced = width, nums, sliced
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=groups)
            for _ in range(nums)
        )

    def forward(self, x):
        width = self.width
        pieces = (
            [x[:, i * width : (i + 1) * width] for i in range(self.nums + 1)]
            if self.sliced
            else x.split(width, 1)
        )
        done = [self.convs[0](pieces[0])]
        for i in range(1, self.nums):
            done.append(self.convs[i]((done[-1] + pieces[i]).relu()))
        return torch.cat([*done, pieces[-1]], 1)


@pytest.mark.parametrize('sliced', [False, True])
@pytest.mark.parametrize('groups', [1, 2])
def test_pieces_in_a_loop_get_narrower_together(
    net, conv, image, agree, groups, sliced
):
    model = net(
        lambda m, x: m.c(m.loop(m.stem(x)).relu()),
        stem=conv(3, 18),
        loop=Loop(6, 2, groups, sliced),
        c=conv(18, 5),
    )
    result = agree(model, image)
    assert result.slim.loop.width == 3 if groups == 1 else 6
    assert result.slim.stem.out_channels == 3 * result.slim.loop.width


BLOCKS = {
    'mmpretrain': lambda: Bottle2neck(16, 16, 4, 64, base_channels=64),
    'mmdet': lambda: DetBottle2neck(16, 4, 4, 64, 64),
    'SDTA of 2': lambda: SDTAEncoder(16, scales=2, use_pos_emb=False),
    'SDTA of 4': lambda: SDTAEncoder(16, scales=4, use_pos_emb=False),
}


@pytest.mark.parametrize('name', BLOCKS)
def test_blocks_of_libraries(net, conv, image, agree, name):
    block = BLOCKS[name]()
    width = getattr(block, 'width', None) or block.conv_channels
    model = net(
        lambda m, x: m.c(m.block(m.a(x))),
        a=conv(3, 16),
        block=block,
        c=conv(16, 5),
    )
    for parameter in model.block.parameters():
        nn.init.normal_(parameter, std=0.3)
    slim = agree(model, image, tolerance=1e-6).slim
    now = getattr(slim.block, 'width', None) or slim.block.conv_channels
    assert now == width // 2
    assert slim.a.out_channels == 8


def test_the_plan_of_a_list_of_sizes(net, conv, image):
    """Written and read, refused where the number is another one."""

    def build(sizes=(6, 10)):
        model = net(
            lambda m, x: m.c(m.cut(m.stem(x).relu())),
            stem=conv(3, 16),
            cut=Cutting(CUTS['a tuple of sizes']),
            c=conv(9, 5),
        )
        model.cut.sizes = sizes
        return model.eval()

    pruner = attach(build(), image)
    pruner.begin({'flops': 0.5}, steps=1)
    pruner.step()
    plan = type(pruner.plan()).from_json(pruner.plan().to_json())
    slim = narrow(build(), plan)
    found = slim.cut.a.in_channels, slim.cut.b.in_channels
    assert slim.cut.sizes == found
    assert slim(image).shape == (2, 5, 8, 8)
    with pytest.raises(PruningError, match=r'cut.sizes is \(8, 8\)'):
        narrow(build((8, 8)), plan)
    with pytest.raises(PruningError, match=r'cut.sizes is 6, .* at \[\d\]'):
        narrow(build(6), plan)
