# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Costs of single channels, against the formula of a chain of layers."""

import math

import pytest
import torch

from mmlapp.core import attach
from mmlapp.core.methods.channel_costs import (
    COST_TERMS,
    channel_costs,
    size_of,
)

# Living channels of a, b and c; the shared network has 8, 12 and 16.
COUNTS = 5, 7, 11


@pytest.fixture
def begun(model):
    """A phase in the middle, at 32 x 32 pixels."""
    pruner = attach(model, torch.randn(1, 3, 32, 32), method='uniform')
    pruner.begin({'flops': 0.5}, 10)
    parts = [
        torch.arange(size) < count
        for size, count in zip(pruner.sizes, COUNTS, strict=True)
    ]
    with torch.no_grad():
        pruner.gate.copy_(torch.cat(parts))
    return pruner


def flops(counts):
    """Multiply-adds; every convolution has 3 x 3 weights."""
    a, b, c = counts
    return 32 * 32 * 9 * (3 * a + a * b + b * c + 5 * c)


def one_more(g):
    """What one more channel of a group costs."""
    counts = list(COUNTS)
    counts[g] += 1
    return flops(counts) - flops(COUNTS)


def test_costs_are_shares_beside_those_that_live(begun):
    expected = torch.tensor([one_more(g) / flops(COUNTS) for g in range(3)])
    found = channel_costs(begun)
    torch.testing.assert_close(found, expected[begun.group])


def test_importance_per_cost(begun):
    importance = torch.rand(36)
    found = COST_TERMS['divide'](begun, importance)
    expected = [
        float(s) * flops(COUNTS) / one_more(int(g))
        for s, g in zip(importance, begun.group, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def parameters(counts):
    """With biases, and scale and shift behind b."""
    a, b, c = counts
    return 28 * a + 9 * a * b + 3 * b + 9 * b * c + c + 45 * c + 5


def test_importance_per_product_of_all_costs(begun):
    importance = torch.rand(36)
    found = COST_TERMS['divide_all'](begun, importance)
    expected = []
    for s, g in zip(importance.tolist(), begun.group.tolist(), strict=True):
        counts = list(COUNTS)
        counts[g] += 1
        for cost in (flops, parameters):
            s *= cost(COUNTS) / (cost(counts) - cost(COUNTS))
        expected.append(s)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_softmax_is_over_groups_and_in_millions(begun):
    importance = torch.rand(36)
    found = COST_TERMS['softmax'](begun, importance)
    powers = [math.exp(one_more(g) / 1e6) for g in range(3)]
    expected = [
        float(s) * (1 - powers[int(g)] / sum(powers))
        for s, g in zip(importance, begun.group, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_what_costs_nothing_is_not_worth_all_the_rest():
    cost = torch.tensor([0.0, 1e-9, -2.0, 4.0])
    assert size_of(cost).tolist() == pytest.approx([4e-3, 4e-3, 2, 4])
