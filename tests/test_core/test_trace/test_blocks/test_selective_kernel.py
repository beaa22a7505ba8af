# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Paths that read all channels, or a part of them each."""

import pytest
from torch import nn


class SelectiveKernel(nn.Module):
    """As timm's: every path reads a part of the channels."""

    def __init__(self, width, split_input, conv_norm):
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


@pytest.mark.parametrize(('split_input', 'size'), [(True, 8), (False, 16)])
def test_parts_get_narrower_together(
    check_block, conv_norm, split_input, size
):
    result = check_block(SelectiveKernel(16, split_input, conv_norm))
    assert result.groups['a'] == size
    assert result.slim.block.in_channels == 8
