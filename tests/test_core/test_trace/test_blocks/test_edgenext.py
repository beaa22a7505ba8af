# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""EdgeNeXt's encoder splits its channels into pieces of one width."""

import pytest
from mmpretrain.models.backbones.edgenext import SDTAEncoder


@pytest.mark.parametrize('scales', [2, 4])
def test_pieces_get_narrower_together(check_block, scales):
    result = check_block(SDTAEncoder(16, scales=scales, use_pos_emb=False))
    assert result.slim.block.conv_channels == 8 // scales
    assert result.groups['a'] == 16 // scales
