# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Properties of the thresholds' steps; their size may be tuned."""

import pytest
import torch

from mmlapp.core import Controller, PruningError


@pytest.fixture
def controller():
    return Controller()


def step(controller, task, flops, pull, state=None, steps=100):
    if state is None:
        state = controller.initial_state(len(task))
    return controller.step(task, flops, pull, state, steps)


FLOPS = torch.tensor([-0.5, -0.01, -3.0])  # a higher threshold costs less


@pytest.mark.parametrize('pull', [1.0, 0.3, -0.3, -1.0])
def test_all_groups_are_pulled_alike(controller, pull):
    change = step(controller, torch.zeros(3), FLOPS, pull)
    assert change.unique().numel() == 1
    assert (change.sign() == torch.tensor(pull).sign()).all()


def test_pull_is_proportional(controller):
    strong = step(controller, torch.zeros(3), FLOPS, 1.0)
    weak = step(controller, torch.zeros(3), FLOPS, 0.25)
    torch.testing.assert_close(weak, strong / 4)


def test_nothing_moves_without_gradients(controller):
    change = step(controller, torch.zeros(3), FLOPS, 0.0)
    assert (change == 0).all()


def test_a_group_without_flops_is_left_to_the_task(controller):
    flops = torch.tensor([-0.5, 0.0])
    assert step(controller, torch.zeros(2), flops, 1.0)[1] == 0


def test_the_task_moves_thresholds_against_its_gradient(controller):
    task = torch.tensor([0.1, -0.1, 0.0])
    change = step(controller, task, torch.full((3,), -1.0), 0.0)
    assert change[0] < 0 < change[1]
    assert change[2] == 0


def test_the_scale_of_the_task_loss_does_not_matter(controller):
    task = torch.tensor([0.1, -0.2, 0.05])
    small = step(controller, task, FLOPS, 0.5)
    large = step(controller, task * 1e4, FLOPS, 0.5)
    torch.testing.assert_close(small, large)


def test_a_group_that_costs_more_may_hurt_more(controller):
    """The same harm per FLOP gives the same step."""
    change = step(controller, FLOPS * 0.2, FLOPS, 0.0)
    torch.testing.assert_close(change, change[:1].expand(3))


def test_the_past_counts(controller):
    state = controller.initial_state(3)
    for _ in range(30):
        step(controller, torch.tensor([0.1, 0.0, 0.0]), FLOPS, 0.0, state)
    signal = controller.signal(state)
    step(controller, torch.zeros(3), FLOPS, 0.0, state)
    assert 0.5 * signal[0] < controller.signal(state)[0]


def test_noise_averages_out(controller):
    state = controller.initial_state(2)
    flops = -torch.ones(2)
    for _ in range(500):
        noise = torch.randn(1).item()
        step(controller, torch.tensor([noise, 1.0]), flops, 0.0, state, 500)
    noisy, steady = controller.signal(state).abs().tolist()
    assert noisy < steady / 2


@pytest.mark.parametrize(
    ('name', 'value'),
    [('rate', 0), ('rate', -1), ('memory', 0), ('task_weight', -0.1)],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(PruningError, match=f'controller {name}={value}'):
        Controller(**{name: value})
