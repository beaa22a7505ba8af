# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Convolutions whose weight is normalised over its input channels."""

import pytest
import torch
from mmcv.cnn import ConvAWS2d, ConvWS2d
from torch import nn
from torch.nn import functional


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('kind', [ConvWS2d, ConvAWS2d])
def test_standardised_weights(net, conv, image, agree, kind, groups):
    """Mean and deviation of a filter are those of its living inputs."""
    model = net(
        lambda m, x: m.c(m.norm(m.b(m.a(x))).relu()),
        a=kind(3, 8, 3, padding=1),
        b=kind(8, 12, 3, padding=1, groups=groups),
        norm=nn.GroupNorm(1, 12),
        c=conv(12, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8 // groups, 'b': 12 // groups}
    assert type(result.slim.b) is kind


class ScaledStdConv2d(nn.Conv2d):
    """With a gain per filter (arXiv 2101.08692), known by its name."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1))

    def forward(self, x):
        weight = functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=self.gain.view(-1),
            training=True,
        )
        weight = weight.reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, padding=1)


def test_standardised_weights_with_a_gain(net, conv, image, agree):
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
        a=ScaledStdConv2d(3, 8, 3),
        b=ScaledStdConv2d(8, 12, 3),
        c=conv(12, 5),
    )
    result = agree(model, image)
    assert result.groups == {'a': 8, 'b': 12}
    assert result.slim.b.gain.shape == (6, 1, 1, 1)
