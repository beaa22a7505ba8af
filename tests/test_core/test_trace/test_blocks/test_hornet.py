# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""HorNet's gated convolution splits its channels into pieces unlike."""

from mmpretrain.models.backbones.hornet import HorNetLayerNorm, gnConv


def test_pieces_are_cut_where_the_projections_say(check_block):
    """Pieces of 4, 8 and 16 channels, each halved on its own."""
    result = check_block(gnConv(16, order=3))
    sizes = {name: size for name, size in result.groups.items() if name != 'a'}
    assert sorted(sizes.values()) == [4, 8, 16, 16]
    assert result.slim.block.dims == [2, 4, 8]


def test_a_global_filter_transforms_each_channel(check_block):
    """Its first half is convolved and its second one multiplied."""
    filtered = dict(type='GF', h=8, w=5)
    result = check_block(gnConv(16, order=2, dw_cfg=filtered))
    assert result.slim.block.dims == [4, 8]


def test_its_norm_takes_a_width_from_its_weight(check_block):
    norm = check_block(HorNetLayerNorm(16, data_format='channels_first'))
    assert norm.slim.block.normalized_shape == (8,)
