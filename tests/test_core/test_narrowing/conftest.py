# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import attach


@pytest.fixture
def make(net, conv):
    """A small network as a config would build it again."""

    def build():
        return net(
            lambda m, x: m.c(m.norm(m.b(m.a(x).relu())).relu()),
            a=conv(3, 8),
            b=conv(8, 8),
            norm=nn.BatchNorm2d(8),
            c=conv(8, 5),
        ).eval()

    return build


@pytest.fixture
def planned(make, image, mask_randomly, randomise):
    """A masked network, its plan and its output."""

    def build(bypass=None, unit='channels'):
        model = randomise(make())
        pruner = attach(model, image, bypass=bypass, unit=unit)
        mask_randomly(pruner)
        with torch.no_grad():
            return model, pruner.plan(), model(image)

    return build
