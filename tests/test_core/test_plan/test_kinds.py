# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from mmlapp.core.plan.kinds import layer_kinds


class Own(nn.Conv2d):
    """A convolution of somebody else."""


@pytest.mark.parametrize(
    ('layer', 'kind'),
    [
        (nn.Conv1d(4, 4, 1), 'convolution'),
        (Own(4, 4, 3, stride=2, dilation=2), 'convolution'),
        (spectral_norm(nn.Conv2d(4, 4, 1)), 'convolution'),
        (nn.Conv3d(4, 4, 1, groups=4), 'convolution in 4 groups'),
        (nn.ConvTranspose2d(4, 4, 1), 'transposed convolution'),
        (nn.SyncBatchNorm(4), 'batch norm'),
        (nn.BatchNorm1d(4), 'batch norm'),
        (nn.GroupNorm(2, 4), 'group norm in 2 groups'),
        (nn.EmbeddingBag(4, 4), 'embedding'),
        (nn.ReLU(), None),
    ],
)
def test_kinds(layer, kind):
    assert layer_kinds(nn.ModuleList([layer])).get('0') == kind


def test_every_name_of_a_layer_that_is_not_left_out():
    layer = nn.Linear(2, 2)
    model = nn.ModuleDict({'a': layer, 'b': layer, 'ab': nn.PReLU()})
    assert layer_kinds(model, ['a.']) == {'b': 'linear layer', 'ab': 'PReLU'}
    assert layer_kinds(layer) == {'': 'linear layer'}
