# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import attach, narrow


@pytest.fixture
def make(net, conv):
    """A backbone and a head, as a config would build them again."""

    def build():
        backbone = net(
            lambda m, x: m.c(m.norm(m.b(m.a(x).relu())).relu()),
            a=conv(3, 8),
            b=conv(8, 8, bias=False),
            norm=nn.BatchNorm2d(8),
            c=conv(8, 8),
        )
        return net(
            lambda m, x: m.head(m.backbone(x).relu().mean((2, 3))),
            backbone=backbone,
            head=nn.Linear(8, 5),
        ).eval()

    return build


@pytest.fixture
def slim(make, image, mask_randomly, randomise):
    """A narrow network, its plan, and what its masked twin put out."""

    def build(bypass=None):
        model = randomise(make())
        pruner = attach(model, image, bypass=bypass)
        mask_randomly(pruner)
        plan = pruner.plan()
        with torch.no_grad():
            masked = model(image)
        return narrow(model, plan), plan, masked

    return build
