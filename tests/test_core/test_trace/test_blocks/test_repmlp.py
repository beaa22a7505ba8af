# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""RepMLP's block cuts its channels into sets that share weights."""

import pytest
from mmpretrain.models.backbones.repmlp import RepMLPBlock


@pytest.mark.parametrize(('sets', 'kept'), [(1, 1), (8, 4)])
def test_sets_follow_the_channels(check_block, sets, kept):
    """Of eight sets, two channels each, four go; one set gets narrower."""
    block = RepMLPBlock(16, 4, 4, [1, 3], num_sharesets=sets)
    slim = check_block(block).slim.block
    assert (slim.channels, slim.num_sharesets) == (8, kept)
    pixels_of_a_patch = 4 * 4
    assert slim._path_vec_channles == kept * pixels_of_a_patch
