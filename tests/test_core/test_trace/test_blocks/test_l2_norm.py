# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""SSD's norm over channels."""

from mmdet.models.necks.ssd_neck import L2Norm

from mmlapp.core.mask.living import RunsOnLiving


def test_masked_it_sees_the_living_channels_alone(check_block):
    result = check_block(L2Norm(16))
    assert isinstance(result.model.block, RunsOnLiving)
    assert result.slim.block.n_dims == 8
