# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Blocks that keep channel numbers in attributes: one test for each row."""

import copy
from collections import OrderedDict

import pytest
import torch
from mmdet.models.backbones.res2net import Bottle2neck as DetBottle2neck
from mmdet.models.necks.ssd_neck import L2Norm
from mmpretrain.models.backbones.edgenext import SDTAEncoder
from mmpretrain.models.backbones.hornet import HorNetLayerNorm, gnConv
from mmpretrain.models.backbones.repmlp import RepMLPBlock
from mmpretrain.models.backbones.res2net import Bottle2neck
from mmpretrain.models.utils import GRN, LayerNorm2d
from torch import nn

from mmlapp.core.trace.attributes import ADJUSTERS, register_adjuster, sync


class MixedConv2d(nn.ModuleDict):
    """As timm's: every piece of the channels has a convolution of its own."""

    def __init__(self, *widths):
        super().__init__()
        self.splits = list(widths)
        for i, width in enumerate(widths):
            self[str(i)] = nn.Conv2d(
                width, width, 2 * i + 1, padding=i, groups=width
            )

    def forward(self, x):
        pieces = x.split(self.splits, 1)
        return torch.cat(
            [conv(p) for conv, p in zip(self.values(), pieces, strict=True)],
            dim=1,
        )


def conv_norm(inputs, outputs):
    """As timm's ConvNormAct names its parts."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 3, padding=1),
            bn=nn.BatchNorm2d(outputs),
        )
    )


class CrossStage(nn.Module):
    """As timm's: half of the channels pass by the other half's layers."""

    def __init__(self, width):
        super().__init__()
        self.expand_chs = 2 * width
        self.conv_exp = conv_norm(width, 2 * width)
        self.blocks = conv_norm(width, width)
        self.conv_transition = conv_norm(2 * width, width)

    def forward(self, x):
        a, b = self.conv_exp(x).split(self.expand_chs // 2, dim=1)
        return self.conv_transition(torch.cat([a, self.blocks(b)], dim=1))


class SelectiveKernel(nn.Module):
    """As timm's: every path reads a part of the channels."""

    def __init__(self, width, split_input):
        super().__init__()
        self.in_channels, self.num_paths = width, 2
        self.split_input = split_input
        part = width // 2 if split_input else width
        self.paths = nn.ModuleList([conv_norm(part, width) for _ in range(2)])

    def forward(self, x):
        pieces = [x, x]
        if self.split_input:
            pieces = x.split(self.in_channels // self.num_paths, 1)
        pairs = zip(self.paths, pieces, strict=True)
        return sum(path(piece) for path, piece in pairs)


# Block, and number of its input channels.
BLOCKS = {
    'res2net': (lambda: Bottle2neck(16, 16, 4, 64, base_channels=64), 16),
    'res2net of mmdet': (lambda: DetBottle2neck(16, 4, 4, 64, 64), 16),
    'hornet': (lambda: gnConv(16, order=3), 16),
    'hornet with filter': (
        lambda: gnConv(16, order=2, dw_cfg=dict(type='GF', h=8, w=5)),
        16,
    ),
    'hornet norm': (
        lambda: HorNetLayerNorm(16, data_format='channels_first'),
        16,
    ),
    'edgenext': (lambda: SDTAEncoder(16, scales=2, use_pos_emb=False), 16),
    'edgenext, four scales': (
        lambda: SDTAEncoder(16, scales=4, use_pos_emb=False),
        16,
    ),
    'cross stage': (lambda: CrossStage(16), 16),
    'selective kernel': (lambda: SelectiveKernel(16, split_input=True), 16),
    'selective kernel on all': (
        lambda: SelectiveKernel(16, split_input=False),
        16,
    ),
    'mixed': (lambda: MixedConv2d(8, 4, 4), 16),
    'grn': (lambda: GRN(16), 16),
    'layer norm 2d': (lambda: LayerNorm2d(16), 16),
    'l2 norm': (lambda: L2Norm(16), 16),
    'repmlp, one set': (lambda: RepMLPBlock(16, 4, 4, [1, 3]), 16),
    'repmlp, eight sets': (
        lambda: RepMLPBlock(16, 4, 4, [1, 3], num_sharesets=8),
        16,
    ),
}


def integers(module):
    """All numbers that a module keeps, by name."""
    return {
        (name, key): value
        for name, child in module.named_modules()
        for key, value in vars(child).items()
        if isinstance(value, (int, tuple, list)) and key != 'training'
    }


@pytest.mark.parametrize('name', BLOCKS)
def test_a_block_is_narrowed(net, conv, agree, name):
    make, width = BLOCKS[name]
    model = net(
        lambda m, x: m.c(m.block(m.a(x))),
        a=conv(3, width),
        block=make(),
        c=conv(width, 5),
    )
    for parameter in model.block.parameters():
        nn.init.normal_(parameter, std=0.3)
    result = agree(model, torch.randn(2, 3, 8, 8).double(), tolerance=1e-6)
    assert result.slim.a.out_channels == width // 2
    frozen = {m.name for m in result.lapp.groups}
    assert frozen


def test_both_halves_of_a_cross_stage_are_narrowed(net, conv, agree):
    """The cut is inside: without its adjuster the block would run as it is."""
    model = net(
        lambda m, x: m.c(m.block(m.a(x))),
        a=conv(3, 16),
        block=CrossStage(16),
        c=conv(16, 5),
    )
    result = agree(model, torch.randn(2, 3, 8, 8).double())
    assert 'block.conv_exp.conv' in result.groups
    assert result.slim.block.expand_chs == 16


@pytest.mark.parametrize('name', BLOCKS)
def test_a_dense_block_stays_as_it_is(name):
    block = BLOCKS[name][0]()
    before = copy.deepcopy(integers(block))
    for module in reversed(list(block.modules())):
        sync(module)
    assert integers(block) == before


def test_an_adjuster_of_ones_own(net, conv, image, agree, monkeypatch):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = 8
            self.a, self.b = conv(6, 8), conv(8, 6)

        def forward(self, x):
            y = self.a(x).reshape(len(x), self.width, *x.shape[2:])
            return self.b(y)

    monkeypatch.setitem(ADJUSTERS, 'Wide', None)

    @register_adjuster('Wide')
    def wide(module):
        module.width = module.a.out_channels

    model = net(
        lambda m, x: m.c(m.block(x)),
        block=Wide(),
        c=conv(6, 5),
    )
    image = torch.randn(2, 6, 8, 8).double()
    result = agree(model, image)
    assert result.groups == {'block.a': 8, 'block.b': 6}
    assert result.slim.block.width == 4


def test_another_class_of_the_same_name_is_left_alone():
    class GRN(nn.Module):
        pass

    sync(GRN())
