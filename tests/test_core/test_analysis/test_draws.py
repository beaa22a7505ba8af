# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Noise that masked and narrowed networks have in common."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core.analysis.draws import SteadyDraws

# Of as many numbers as one likes.
DRAWN = {
    'normal': torch.randn_like,
    'of a shape': lambda x: torch.randn(x.shape),
    'uniform': lambda x: torch.empty_like(x).uniform_(-1, 1),
    'of means': lambda x: torch.normal(x, 1.0),
    'bernoulli': torch.bernoulli,
    'dropout': functional.dropout,
    'alpha dropout': nn.AlphaDropout(),
    'feature alpha dropout': nn.FeatureAlphaDropout(),
}


@pytest.mark.parametrize('name', DRAWN)
def test_fewer_numbers_are_the_same(name):
    found = []
    for width in (8, 5):
        x = torch.full((2, width, 3), 0.5)
        with SteadyDraws():
            found.append(DRAWN[name](x))
    assert torch.equal(found[0][:, :5], found[1])
    # Without, not all are equal.
    assert len(DRAWN[name](torch.full((2, 8, 3), 0.5)).unique()) > 1


def test_no_draw_is_like_the_one_before():
    with SteadyDraws():
        drawn = [float(torch.rand(())) for _ in range(100)]
    assert len(set(drawn)) == 100
    assert 0 < min(drawn) < 0.05
    assert 0.95 < max(drawn) < 1


def test_what_is_no_noise_is_as_it_was():
    with SteadyDraws():
        order = torch.randperm(9)
        assert torch.equal(torch.ones(3) + 1, torch.full((3,), 2.0))
    assert order.sort().values.equal(torch.arange(9))
