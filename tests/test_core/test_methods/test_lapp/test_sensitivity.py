# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import attach
from mmlapp.core.methods.lapp.sensitivity import (
    Margin,
    curvature,
    gradient,
    magnitude,
)
from mmlapp.core.segments import Segments

GATE = torch.tensor([1.0, -2.0, 3.0, 0.5, 4.0])
SLOPE = torch.tensor([0.2, 0.6, 0.2, 1.0, 3.0])
MASK = torch.tensor([False, True, True, True, True])
PARTS = Segments([3, 2])
FLOPS = torch.tensor([-2.0, -0.5])


@pytest.fixture
def margin():
    return Margin(GATE, SLOPE, MASK, PARTS, FLOPS)


def test_gradient_by_hand(margin):
    expected = [-(0.2 * 1 - 0.6 * 2 + 0.2 * 3) / 2, -(0.5 + 12) / 0.5]
    torch.testing.assert_close(gradient(margin), torch.tensor(expected))


def test_curvature_by_hand(margin):
    """Harm of a living channel at the margin over FLOPs of a channel."""
    harm = [(0.6 * 4 + 0.2 * 9) / 0.8, (0.25 + 3 * 16) / 4]
    flops = [2.0 / 1.0, 0.5 / 4.0]
    expected = torch.tensor([h / f for h, f in zip(harm, flops, strict=True)])
    torch.testing.assert_close(curvature(margin), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize('sensitivity', [gradient, curvature, magnitude])
def test_the_group_of_most_flops_does_not_win(margin, sensitivity):
    """Twice the FLOPs at the same harm are half as much harm per FLOP."""
    double = Margin(GATE, SLOPE, MASK, PARTS, FLOPS * 2)
    torch.testing.assert_close(sensitivity(double), sensitivity(margin) / 2)


def test_magnitude_by_hand(margin):
    """As the curvature, of absolute values."""
    harm = [(0.6 * 2 + 0.2 * 3) / 0.8, (0.5 + 3 * 4) / 4]
    flops = [2.0 / 1.0, 0.5 / 4.0]
    expected = torch.tensor([h / f for h, f in zip(harm, flops, strict=True)])
    torch.testing.assert_close(magnitude(margin), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ('sensitivity', 'ratio'), [(curvature, 2), (magnitude, 1)]
)
def test_channels_that_say_half_as_much_each(sensitivity, ratio):
    """Twice as many at half the cost: as much in sum, a half of its square."""
    gate = torch.tensor([2.0, 2, 1, 1, 1, 1])
    ones, parts = torch.ones(6), Segments([2, 4])
    both = torch.tensor([-3.0, -3.0])
    found = sensitivity(Margin(gate, ones, ones.bool(), parts, both))
    torch.testing.assert_close(found[0] / found[1], torch.tensor(float(ratio)))


def test_without_channels_at_the_margin_all_that_live_count():
    margin = Margin(GATE, torch.zeros(5), MASK, PARTS, FLOPS)
    assert curvature(margin).isfinite().all()
    one = Margin(GATE, torch.tensor([1.0, 0, 0, 1, 1]), MASK, PARTS, FLOPS)
    torch.testing.assert_close(
        curvature(one)[0], torch.tensor((4 + 9) / 2 / (2.0 / 1.0))
    )


def test_an_empty_group_resists_by_what_could_come_back():
    """Otherwise it would be empty for ever, whatever the loss says."""
    mask = torch.tensor([False, False, False, True, True])
    margin = Margin(GATE, SLOPE, mask, PARTS, FLOPS)
    harm = (0.2 * 1 + 0.6 * 4 + 0.2 * 9) / 1.0
    full = Margin(GATE, SLOPE, MASK, PARTS, FLOPS)
    found = curvature(margin)
    torch.testing.assert_close(
        found[0], torch.tensor(harm / (2.0 / 1.0)), rtol=1e-4, atol=0
    )
    assert found[1] == curvature(full)[1]


@pytest.mark.parametrize('sensitivity', [gradient, curvature, magnitude])
def test_a_group_without_flops_stays_finite(sensitivity):
    flops = torch.tensor([-2.0, 0.0])
    margin = Margin(GATE, SLOPE, MASK, PARTS, flops)
    assert sensitivity(margin).isfinite().all()


def test_the_curvature_of_a_fitted_model():
    """Fisher: for -log p of the model itself, E[p_i^2] is the curvature.

    A linear Gaussian model with noise of variance one that is at its
    optimum: the loss without channel i rises by the mean square of what the
    channel adds, over two.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 1, 1))
    with torch.no_grad():
        net[0].bias.zero_()
    pruner = attach(net, torch.zeros(1, 3, 1, 1))
    pruner.begin({'flops': 0.9}, 1000)
    x = torch.randn(20000, 3, 1, 1)
    total = torch.zeros(6)
    with torch.no_grad():
        clean = net(x)
        features = net[0](x)
    target = clean + torch.randn_like(clean)
    for part in range(0, 20000, 10):
        picked = slice(part, part + 10)
        loss = (net(x[picked]) - target[picked]).square().mean() / 2
        loss.backward()
        total += pruner.gate.grad.square()
        pruner.gate.grad = None
    fisher = 10 * total / 2000
    added = features * net[1].weight.detach().view(1, 6, 1, 1)
    torch.testing.assert_close(
        fisher, added.square().mean((0, 2, 3)), rtol=0.15, atol=0
    )
