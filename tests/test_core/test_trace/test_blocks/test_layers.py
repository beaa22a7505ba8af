# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes of convolutions, linear layers and embeddings, in closed form."""

import pytest
from torch import nn

from mmlapp.core.trace.blocks.registry import adjust_attributes

SIZES = [
    (nn.Conv1d(6, 4, 3), nn.Conv1d(3, 2, 3)),
    (nn.Conv2d(6, 4, 3), nn.Conv2d(3, 2, 3)),
    (nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(2, 2, 3, groups=2)),
    (nn.ConvTranspose2d(6, 4, 3), nn.ConvTranspose2d(3, 2, 3)),
    (
        nn.ConvTranspose3d(6, 4, 3, groups=2),
        nn.ConvTranspose3d(4, 2, 3, groups=2),
    ),
]


@pytest.mark.parametrize(('wide', 'narrow'), SIZES)
def test_a_convolution_gets_the_numbers_of_one_built_narrow(wide, narrow):
    wide.weight = narrow.weight
    adjust_attributes(wide)
    assert wide.in_channels == narrow.in_channels
    assert wide.out_channels == narrow.out_channels


def test_a_linear_layer():
    layer = nn.Linear(6, 4)
    layer.weight = nn.Parameter(layer.weight[:3, :2])
    adjust_attributes(layer)
    assert (layer.in_features, layer.out_features) == (2, 3)


@pytest.mark.parametrize('kind', [nn.Embedding, nn.EmbeddingBag])
def test_a_table(kind):
    layer = kind(6, 4)
    layer.weight = nn.Parameter(layer.weight[:, :3])
    adjust_attributes(layer)
    assert (layer.num_embeddings, layer.embedding_dim) == (6, 3)
