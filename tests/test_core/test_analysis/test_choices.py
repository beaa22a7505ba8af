# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where equal numbers are put in an order, rounding decides."""

import torch
from torch import nn

from mmlapp.core import analyse
from mmlapp.core.analysis.choices import Choices


class Ranked(nn.Module):
    """Its second layer sees the best tokens behind a norm over channels."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)
        self.score, self.last = nn.Linear(8, 1), nn.Linear(3, 2)

    def forward(self, x):
        y = self.first(x)
        scores = self.score(self.norm(y))[..., 0]
        # As small as rounding, which another width does otherwise.
        sign = 1 if y.shape[-1] > 4 else -1
        scores = scores + sign * 1e-14 * torch.arange(40)
        best = scores.topk(3, dim=1).indices
        return self.last(x.gather(1, best[..., None].expand(-1, -1, 3)))


def test_an_order_of_equal_numbers_is_no_fault():
    torch.manual_seed(0)
    groups = analyse(Ranked().double(), torch.rand(2, 40, 3).double()).groups
    assert [group.name for group in groups.prunable] == ['first']


def test_operators_without_an_order_are_no_choice():
    with Choices() as choices:
        torch.rand(3).relu().sum()
    assert not choices.made
