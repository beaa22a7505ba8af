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
    # The one that dropout is on a GPU.
    'native dropout': lambda x: torch.native_dropout(x, 0.5, True)[0],
    'whole numbers': lambda x: torch.randint(9, x.shape),
    'whole numbers between': lambda x: torch.randint_like(x, -3, 5),
    'any whole number': lambda x: torch.empty_like(x).random_(),
    'slopes': lambda x: nn.RReLU()(-x),
    'slopes in place': lambda x: nn.RReLU(inplace=True)(-x),
    'counts': torch.poisson,
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


def test_an_order_is_one_of_all_and_not_the_old_one():
    with SteadyDraws():
        order = torch.randperm(9)
    assert order.tolist() == [8, 0, 1, 2, 3, 4, 5, 6, 7]


def test_whole_numbers_lie_within_their_bounds():
    with SteadyDraws():
        few = [int(torch.randint(-1, 2, ())) for _ in range(30)]
        byte = torch.zeros(2, dtype=torch.int8).random_(3, None)
    assert set(few) == {-1, 0, 1}
    assert int(byte.min()) >= 3


@pytest.mark.parametrize('train', [True, False])
def test_dropout_of_gpus_drops_nothing(train):
    x = torch.rand(2, 3, requires_grad=True)
    with SteadyDraws():
        out = torch.native_dropout(x, 0.75, train)[0]
    out.sum().backward()
    scale = 4 if train else 1
    assert torch.equal(out, scale * x)
    assert torch.equal(x.grad, torch.full_like(x, scale))


@pytest.mark.parametrize('inplace', [True, False])
def test_slopes_have_their_gradient(inplace):
    x = torch.tensor([-2.0, 3.0], requires_grad=True)
    with SteadyDraws():
        out = nn.RReLU(0.25, 0.75, inplace)(x * 1)
    out.sum().backward()
    assert out.tolist() == [-1, 3]
    assert x.grad.tolist() == [0.5, 1]


def test_what_is_no_noise_is_as_it_was():
    with SteadyDraws():
        assert torch.equal(torch.ones(3) + 1, torch.full((3,), 2.0))
