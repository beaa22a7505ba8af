# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmlapp.core import ScoreContext, attach
from mmlapp.core.score import SCORES


@pytest.fixture
def filters():
    return torch.randn(6, 4)


@pytest.mark.parametrize('power', [1, 2])
def test_norms_of_filters(filters, power):
    expected = [
        sum(abs(w) ** power for w in row) ** (1 / power)
        for row in filters.tolist()
    ]
    found = SCORES.build(f'l{power}')(ScoreContext(filters))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_scale_of_the_norm(filters):
    scale = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5, -0.5])
    found = SCORES.build('bn_scale')(ScoreContext(filters, scale=scale))
    assert found.tolist() == [1, 2, 0, 3, 0.5, 0.5]


def test_scale_falls_back_where_no_norm_follows(filters):
    found = SCORES.build('bn_scale')(ScoreContext(filters))
    torch.testing.assert_close(
        found, SCORES.build('l2')(ScoreContext(filters))
    )


def test_geometric_median_by_loops(filters):
    rows = filters.tolist()
    expected = [
        sum(
            sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) ** 0.5
            for other in rows
        )
        for row in rows
    ]
    found = SCORES.build('fpgm')(ScoreContext(filters))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_filter_amid_the_others_is_the_least_important():
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]])
    assert SCORES.build('fpgm')(ScoreContext(corners)).argmin() == 4


def test_the_chance_to_pass_the_relu(filters):
    """Against the standard library's error function."""
    scale = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0, 0.0])
    shift = torch.tensor([0.0, -1.0, 0.05, 2.0, -4.0, 1.0])
    found = SCORES.build('operation_aware')(
        ScoreContext(filters, scale=scale, shift=shift)
    )
    expected = []
    for gamma, beta in zip(scale.tolist(), shift.tolist(), strict=True):
        x = (0.05 - beta) / ((abs(gamma) + 1e-8) * math.sqrt(2))
        expected.append(1 - (1 + math.erf(x)) / 2)
    torch.testing.assert_close(found, torch.tensor(expected))
    # A channel that is always 1 passes, and half of N(0.05, 1/4).
    assert found[5] == 1
    assert found[2] == 0.5


def test_a_norm_without_a_shift_has_none(filters):
    scale = torch.full((6,), 0.05)
    found = SCORES.build('operation_aware')(ScoreContext(filters, scale=scale))
    # One standard deviation above the mean.
    torch.testing.assert_close(found, torch.full((6,), 0.158655254))


def test_without_a_norm_nothing_is_known_of_the_relu(filters):
    found = SCORES.build('operation_aware')(ScoreContext(filters))
    torch.testing.assert_close(
        found, SCORES.build('l2')(ScoreContext(filters))
    )


def test_the_shift_of_the_norm_behind_a_layer_is_seen(model, images):
    with torch.no_grad():
        model.norm.weight.fill_(1)
        model.norm.bias.copy_(torch.linspace(-1, 1, 12)[torch.randperm(12)])
    pruner = attach(model, images, score='operation_aware')
    pruner.begin({'flops': 0.5}, 2)
    found = pruner.scores[8:20]
    assert torch.equal(found.argsort(), model.norm.bias.argsort())
