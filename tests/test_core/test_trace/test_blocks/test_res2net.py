# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Res2Net's block splits its channels into pieces of one width."""

import pytest
from mmdet.models.backbones.res2net import Bottle2neck as DetBottle2neck
from mmpretrain.models.backbones.res2net import Bottle2neck

BLOCKS = {
    'mmpretrain': lambda: Bottle2neck(16, 16, 4, 64, base_channels=64),
    'mmdet': lambda: DetBottle2neck(16, 4, 4, 64, 64),
}


@pytest.mark.parametrize('package', BLOCKS)
def test_pieces_get_narrower_together(check_block, package):
    result = check_block(BLOCKS[package]())
    assert result.groups['block.conv1'] == 4
    assert result.slim.block.width == 2
