# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of features, with and without tensors that tell them."""

import pytest
from torch import nn

from mmlapp.core.trace.blocks.batch_norm import adjust_batch_norm


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('track', [True, False])
def test_it_is_narrowed(check_block, affine, track):
    norm = nn.BatchNorm2d(16, affine=affine, track_running_stats=track)
    slim = check_block(norm).slim.block
    told = affine or track
    assert slim.num_features == (8 if told else 16)


def test_instances_are_told_by_their_scale():
    norm = nn.InstanceNorm1d(6, affine=True)
    norm.weight = nn.Parameter(norm.weight[:4])
    adjust_batch_norm(norm)
    assert norm.num_features == 4
