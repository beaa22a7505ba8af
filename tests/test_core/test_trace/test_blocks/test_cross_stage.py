# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Half of the channels pass by the layers of the other half."""

import pytest
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


@pytest.mark.parametrize('keep', [0.5, 0.0])
def test_it_cuts_what_a_branch_fills_up(net, conv_norm, agree, keep):
    """Filters go, and no channels."""
    model = net(lambda m, x: m.block(x), block=CrossStage(16, conv_norm))
    x = torch.randn(2, 16, 8, 8).double()
    result = agree(model, x, keep=keep, bypass='depthwise', unit='filters')
    assert 'block.conv_exp.conv' in result.groups
    assert result.slim.block.expand_chs == 32
