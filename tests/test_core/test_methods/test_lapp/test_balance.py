# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Properties of the thresholds' steps; their size may be tuned."""

import math
from types import SimpleNamespace

import pytest
import torch

from mmlapp.core import PruningError, attach
from mmlapp.core.methods.lapp import Balance
from mmlapp.core.methods.lapp.sensitivity import SENSITIVITIES, Margin
from mmlapp.core.segments import Segments

FLOPS = torch.tensor([-0.5, -0.01, -3.0])  # a higher threshold costs less


def controller_of(groups=3, **settings):
    controller = Balance(**settings)
    controller.setup(SimpleNamespace(threshold=torch.zeros(groups)))
    return controller


@pytest.fixture(params=SENSITIVITIES)
def controller(request):
    return controller_of(sensitivity=request.param)


@pytest.fixture
def first():
    return controller_of(sensitivity='gradient')


@pytest.fixture
def second():
    return controller_of(sensitivity='curvature')


def margin(gate, flops, slope=1.0):
    """One living channel per group."""
    count = len(flops)
    return Margin(
        gate,
        torch.full((count,), slope),
        torch.ones(count, dtype=torch.bool),
        Segments([1] * count),
        flops,
    )


def step(controller, gate, flops, steps=100, keep=False):
    if not keep:
        controller.setup(SimpleNamespace(threshold=torch.zeros(len(flops))))
    return controller.change(margin(gate, flops), steps)


def test_nothing_moves_without_gradients(controller):
    change = step(controller, torch.zeros(3), FLOPS)
    assert (change == 0).all()


def test_who_is_silent_does_not_move_the_mean_of_the_others(second):
    alone = step(second, torch.tensor([1.2, 1.0]), -torch.ones(2))
    gate = torch.tensor([1.2, 1.0, 0.0, 0.0])
    among = step(second, gate, -torch.ones(4))
    torch.testing.assert_close(among[:2], alone)


def test_gradient_moves_against_the_gradient(first):
    gate = torch.tensor([0.1, -0.1, 0.0])  # more of channel 0 hurts
    change = step(first, gate, torch.full((3,), -1.0))
    assert change[1] < 0 < change[0]
    assert change[2] == 0


@pytest.mark.parametrize('sign', [1, -1])
def test_curvature_spares_what_matters(second, sign):
    gate = sign * torch.tensor([0.2, 0.1, 0.1])
    change = step(second, gate, torch.full((3,), -1.0))
    assert change[0] < 0 < change[1]
    assert change[1] == change[2]


def test_curvature_by_hand(second):
    """Log of the harm per FLOP over its geometric mean: 2 log 1.2 apart."""
    gate, flops = torch.tensor([1.2, 1.0]), torch.tensor([-1.0, -1.0])
    change = step(second, gate, flops, steps=50)
    expected = [
        -second.rate / 50 * second.task_weight * s * math.log(1.2)
        for s in (1, -1)
    ]
    torch.testing.assert_close(change, torch.tensor(expected))


def test_the_default_goes_by_the_magnitude(second):
    """Logarithms of squares are twice as far apart."""
    gate, flops = torch.tensor([-1.2, 1.0]), torch.tensor([-1.0, -1.0])
    found = step(controller_of(2), gate, flops)
    torch.testing.assert_close(2 * found, step(second, gate, flops))


def test_equal_harm_per_flop_is_the_optimum(second):
    """Where all groups are alike the task loss moves none."""
    change = step(second, FLOPS.abs().sqrt(), FLOPS)
    torch.testing.assert_close(change, torch.zeros(3))


def test_one_group_cannot_run_away(second):
    gate = torch.tensor([1e6, 1.0, 1.0, 0.0])
    change = step(second, gate, torch.full((4,), -1.0), steps=1)
    limit = second.rate * second.task_weight
    assert change.abs().max() == pytest.approx(limit)


def test_the_scale_of_the_task_loss_does_not_matter(controller):
    gate = torch.tensor([0.1, -0.2, 0.05])
    small = step(controller, gate, FLOPS)
    large = step(controller, gate * 1e4, FLOPS)
    torch.testing.assert_close(small, large)


def test_a_group_that_costs_more_may_hurt_more(first):
    """The same harm per FLOP gives the same step."""
    change = step(first, FLOPS * 0.2, FLOPS)
    torch.testing.assert_close(change, change[:1].expand(3))


def test_the_past_counts(controller):
    controller.setup(SimpleNamespace(threshold=torch.zeros(3)))
    past = torch.tensor([0.1, 0.01, 0.01])
    for _ in range(30):
        step(controller, past, -torch.ones(3), keep=True)
    signal = controller.signal()
    step(controller, past.flip(0), -torch.ones(3), keep=True)
    assert signal[0].abs() > 0.5 * signal.abs().max()
    assert 0.5 < controller.signal()[0] / signal[0] <= 1


def test_noise_averages_out(first):
    first.setup(SimpleNamespace(threshold=torch.zeros(2)))
    flops = -torch.ones(2)
    for _ in range(500):
        noise = torch.randn(1).item()
        step(first, torch.tensor([noise, 1.0]), flops, 500, True)
    noisy, steady = first.signal().abs().tolist()
    assert noisy < steady / 2


def test_one_batch_does_not_rule_the_mean(second):
    """However large its gradients are."""
    second.setup(SimpleNamespace(threshold=torch.zeros(2)))
    flops = -torch.ones(2)
    for number in range(100):
        outlier = number == 90
        gate = torch.tensor([1.0, 1e4] if outlier else [2.0, 1.0])
        step(second, gate, flops, 1000, True)
    assert second.signal()[0] > 0.5


def test_noise_is_what_the_curvature_measures(second):
    """A gradient of mean zero says by its size how much a group matters."""
    second.setup(SimpleNamespace(threshold=torch.zeros(2)))
    flops = -torch.ones(2)
    for _ in range(500):
        gate = torch.randn(2) * torch.tensor([1.4, 1.0])
        step(second, gate, flops, 500, True)
    assert second.signal()[0] > 0.1


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('rate', 0),
        ('rate', -1),
        ('rate', True),
        ('memory', '0.1'),
        ('task_weight', None),
        ('sensitivity', True),
        ('memory', 0),
        ('task_weight', -0.1),
        ('sensitivity', 'order'),
        ('sensitivity', 2),
    ],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(PruningError, match=f'balance {name}={value!r}'):
        Balance(**{name: value})


def test_a_second_phase_owes_nothing_to_the_first(model, images):
    pruner = attach(model, images)
    pruner.begin({'flops': 0.8}, 4)
    for _ in range(4):
        model(images).square().mean().backward()
        pruner.step()
    assert pruner.method.update.state.any()
    pruner.reset()
    pruner.begin({'flops': 0.6}, 4)
    assert not pruner.method.update.state.any()
