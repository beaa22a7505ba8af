# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Swin, whose attention takes the width of its heads from its input."""

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from mmdet.models.backbones.swin import WindowMSA as DetWindowMSA
from mmpretrain.models.utils import WindowMSA
from torch import nn

from mmlapp.core import analyse

BLOCKS = {
    'mmdet': lambda **k: DetWindowMSA(16, 4, (2, 3), **k),
    'mmpretrain': lambda **k: WindowMSA(16, (2, 3), 4, **k),
}


@pytest.fixture
def tokens():
    return torch.randn(4, 6, 3, dtype=torch.float64)


@pytest.mark.parametrize('package', BLOCKS)
@pytest.mark.parametrize('bias', [True, False])
def test_heads_go_and_channels_around_them(net, agree, tokens, package, bias):
    """Its views have the width of its input, which it shares no more."""
    model = net(
        lambda m, x: m.b(m.block(m.a(x))),
        a=nn.Linear(3, 16),
        block=BLOCKS[package](qkv_bias=bias),
        b=nn.Linear(16, 5),
    )
    result = agree(model, tokens)
    assert result.groups == {'a': 16, 'block.qkv': 4, 'block.proj': 16}
    slim = result.slim.block
    assert (slim.qkv.in_features, slim.qkv.out_features) == (8, 24)
    assert (slim.proj.in_features, slim.proj.out_features) == (8, 8)
    assert slim.num_heads == slim.relative_position_bias_table.shape[1] == 2
    kept = result.plan.slices['block.qkv.weight'][0].index
    heads = {(row // 16, row % 16 // 4) for row in kept}
    (same,) = {frozenset(h for p, h in heads if p == n) for n in range(3)}
    assert (len(same), len(kept)) == (2, 3 * 2 * 4)


def test_a_shortcut_ties_what_comes_out(net, agree, tokens):
    model = net(
        lambda m, x: m.b((y := m.a(x)) + m.block(y)),
        a=nn.Linear(3, 16),
        block=BLOCKS['mmdet'](),
        b=nn.Linear(16, 5),
    )
    assert agree(model, tokens).groups == {'a': 16, 'block.qkv': 4}


def test_channels_that_must_stay_leave_its_heads(net, tokens):
    """The input is an output too."""

    def forward(m, x):
        y = m.a(x)
        return m.b(m.block(y)), y

    model = net(
        forward,
        a=nn.Linear(3, 16),
        block=BLOCKS['mmdet'](),
        b=nn.Linear(16, 5),
    ).eval()
    found = analyse(model, lambda: model(tokens))
    names = [g.name for g in found.groups.prunable]
    assert names == ['block.qkv', 'block.proj']


def test_a_whole_swin_transformer(net, agree):
    """Shifted windows, padding, merged patches, outputs of two stages."""
    swin = SwinTransformer(
        embed_dims=16,
        depths=(2, 2),
        num_heads=(2, 4),
        strides=(4, 2),
        window_size=3,
        out_indices=(0, 1),
        mlp_ratio=2,
    )

    def forward(m, x):
        a, b = m.swin(x)
        return m.a(a).mean((2, 3)) + m.b(b).mean((2, 3))

    model = net(
        forward, swin=swin, a=nn.Conv2d(16, 5, 1), b=nn.Conv2d(32, 5, 1)
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    result = agree(model, image, tolerance=1e-6)
    assert result.groups['swin.patch_embed.projection'] == 16
    assert result.slim.swin.num_features == [8, 16]
