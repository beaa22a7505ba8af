# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from zoo.share import prunable_share

from mmlapp.core import analyse


def test_the_share_counts_what_is_left_at_least():
    """3 of 4 inputs of the second layer are frozen, as is its output."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 2, 1)
            self.c = nn.Conv2d(8, 5, 1)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            return self.c(torch.cat([a, b], dim=1)), a

    model = Part()
    x = torch.rand(1, 3, 1, 1)
    found = analyse(model, lambda: model(x))
    # a: 18 frozen; b: 6 prunable; c: 30 of 40 frozen.
    assert prunable_share(found, '*') == pytest.approx(1 - 48 / 64)


def test_what_counts_may_be_chosen():
    """A convolution of 3 x 6, all prunable, and a layer of 6 x 5, too."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Flatten(), nn.Linear(6, 5), nn.Linear(5, 2)
    )
    x = torch.rand(1, 3, 1, 1)
    found = analyse(model, x, ignore='2')
    # 5 outputs stay: 18 + 30 go as a whole, 10 not at all.
    assert prunable_share(found) == 1
    both = 'convolution', 'product'
    assert prunable_share(found, operators=both) == pytest.approx(48 / 58)
    assert prunable_share(found, ['3'], both) == 0
