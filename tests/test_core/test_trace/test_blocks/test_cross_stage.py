# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Half of the channels pass by the layers of the other half."""

import torch
from torch import nn


class CrossStage(nn.Module):
    """As timm's: half of the channels pass by the other half's layers."""

    def __init__(self, width, conv_norm):
        super().__init__()
        self.expand_chs = 2 * width
        self.conv_exp = conv_norm(width, 2 * width)
        self.blocks = conv_norm(width, width)
        self.conv_transition = conv_norm(2 * width, width)

    def forward(self, x):
        a, b = self.conv_exp(x).split(self.expand_chs // 2, dim=1)
        return self.conv_transition(torch.cat([a, self.blocks(b)], dim=1))


def test_both_halves_are_narrowed(check_block, conv_norm):
    """The cut is inside: without its row the block would run as it is."""
    result = check_block(CrossStage(16, conv_norm))
    assert 'block.conv_exp.conv' in result.groups
    assert result.slim.block.expand_chs == 16
