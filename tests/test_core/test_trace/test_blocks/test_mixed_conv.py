# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A convolution of its own for every piece of the channels."""

import torch
from torch import nn


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


def test_pieces_unlike_are_cut_where_the_convolutions_say(check_block):
    result = check_block(MixedConv2d(8, 4, 4))
    assert sorted(result.groups.values()) == [4, 4, 8]
    kept = result.plan.slices['a.weight'][0].index
    assert result.slim.block.splits == [
        sum(start <= k < end for k in kept)
        for start, end in ((0, 8), (8, 12), (12, 16))
    ]
