# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A block between two convolutions, narrowed and compared."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from mmlapp.core.trace.blocks.registry import adjust_attributes


def numbers(module):
    """All numbers that a module and its children keep, by name."""
    return {
        (name, key): value
        for name, child in module.named_modules()
        for key, value in vars(child).items()
        if isinstance(value, (int, tuple, list)) and key != 'training'
    }


@pytest.fixture
def check_block(net, conv, agree):
    """Narrows a block that keeps its 16 channels; returns what came out.

    Before, its attributes must be what they are adjusted to when nothing has
    been narrowed.
    """

    def check(block):
        before = numbers(block)
        for module in reversed(list(block.modules())):
            adjust_attributes(module)
        assert numbers(block) == before
        model = net(
            lambda m, x: m.c(m.block(m.a(x))),
            a=conv(3, 16),
            block=block,
            c=conv(16, 5),
        )
        for parameter in model.block.parameters():
            nn.init.normal_(parameter, std=0.3)
        image = torch.randn(2, 3, 8, 8).double()
        result = agree(model, image, tolerance=1e-6)
        assert result.slim.a.out_channels == 8
        return result

    return check


@pytest.fixture
def conv_norm(conv):
    """Makes a convolution with its norm, named as timm's ConvNormAct."""

    def make(inputs, outputs):
        return nn.Sequential(
            OrderedDict(conv=conv(inputs, outputs), bn=nn.BatchNorm2d(outputs))
        )

    return make
