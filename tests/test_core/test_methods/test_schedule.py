# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import numpy
import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.core.methods.schedule import (
    Schedule,
    check_targets,
    penalty,
)


@pytest.mark.parametrize('value', [1e-3, 0.5, 1, 1.0])
def test_targets_that_are_fractions(value):
    assert check_targets({'flops': value}) == {'flops': value}


@pytest.mark.parametrize(
    'value', [0, -0.5, 1.01, 50, math.nan, math.inf, '0.5', None, True]
)
def test_targets_that_are_not(value):
    with pytest.raises(
        PruningError, match=rf'target flops={value!r}.*\(0, 1\]'
    ):
        check_targets({'flops': value})


@pytest.mark.parametrize('target', [0.5, {}, None, [('flops', 0.5)]])
def test_targets_have_names(target):
    with pytest.raises(PruningError, match=r'target=.*dict\(flops=0.5\)'):
        check_targets(target)


def test_a_cost_that_the_network_does_not_have():
    with pytest.raises(
        PruningError, match=r'target latency=0\.5: .* flops, p'
    ):
        check_targets({'latency': 0.5}, ['flops', 'parameters'])


def test_schedule_begins_dense_and_ends_at_the_target():
    schedule = Schedule(target=0.4, steps=50, ramp=0.8)
    assert schedule.at(0) == 1
    assert schedule.at(40) == pytest.approx(0.4)
    assert schedule.at(50) == schedule.at(1000) == pytest.approx(0.4)
    assert schedule.at(-3) == 1


def test_schedule_removes_the_same_share_at_every_step():
    schedule = Schedule(target=0.3, steps=40, ramp=1)
    shares = {
        round(schedule.at(i + 1) / schedule.at(i), 12) for i in range(40)
    }
    assert shares == {round(0.3 ** (1 / 40), 12)}


def test_a_target_of_one_stays():
    assert {Schedule(1.0, 10).at(i) for i in range(11)} == {1}


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        (dict(target=0, steps=10), '=0: '),
        (dict(target=1.2, steps=10), r'=1\.2'),
        (dict(target=0.5, steps=0), 'steps=0: expected a whole number from 1'),
        (
            dict(target=0.5, steps=-4),
            'steps=-4: expected a whole number from 1',
        ),
        (dict(target=0.5, steps=10, ramp=0), 'ramp=0'),
        (dict(target=0.5, steps=10, ramp=1.5), r'ramp=1\.5'),
    ],
)
def test_impossible_schedules(arguments, match):
    with pytest.raises(PruningError, match=match):
        Schedule(**arguments)


def test_penalty_in_closed_form():
    """Huber's function of the log ratio."""
    for ratio in (0.2, 0.39, 0.4, 0.41, 0.6, 1.0):
        distance = abs(math.log(ratio / 0.4))
        expected = distance**2 / 0.1 if distance < 0.05 else distance - 0.025
        found = penalty(torch.tensor(ratio, dtype=torch.float64), 0.4)
        assert float(found) == pytest.approx(expected)


def test_penalty_is_smooth():
    ratio = torch.rand(20, dtype=torch.float64) * 0.5 + 0.2
    ratio = torch.cat([ratio, torch.tensor([0.4])]).requires_grad_()
    torch.autograd.gradcheck(lambda r: penalty(r, 0.4), ratio)


def test_slope_of_the_penalty_is_bounded():
    """By the log ratio: proportional within the band, then one."""
    for ratio in (0.1, 0.38, 0.4, 0.415, 0.5, 1.0):
        log = torch.tensor(math.log(ratio), requires_grad=True)
        penalty(log.exp(), 0.4).backward()
        slope = min(max(math.log(ratio / 0.4) / 0.05, -1), 1)
        assert log.grad.item() == pytest.approx(slope, abs=1e-5)


def test_any_kind_of_number_is_a_target():
    found = check_targets({'flops': numpy.float32(0.5), 'parameters': 1})
    assert found == {'flops': 0.5, 'parameters': 1.0}
    assert all(type(value) is float for value in found.values())
