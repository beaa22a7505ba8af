# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt V2's norm over channels."""

from mmpretrain.models.utils import GRN
from torch import nn

from mmlapp.core.mask.living import RunsOnLiving
from mmlapp.core.trace.blocks.registry import adjust_attributes


def test_masked_it_sees_the_living_channels_alone(check_block):
    result = check_block(GRN(16))
    assert isinstance(result.model.block, RunsOnLiving)
    assert result.slim.block.in_channels == 8
    assert result.slim.block.gamma.shape == (8,)


def test_another_class_of_the_name_is_left_alone():
    other = type('GRN', (nn.Module,), {})()
    adjust_attributes(other)
    assert not hasattr(other, 'in_channels')
