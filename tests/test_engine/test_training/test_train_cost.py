# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a whole run costs, as a fraction of dense training."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.core import PruningError, attach, narrow
from mmlapp.engine.training.train_cost import StepCost, TrainCost, step_cost

BYPASSES = [
    None,
    'depthwise',
    'pointwise',
    dict(type='grouped', norm=True),
    dict(type='depthwise', merge=True),
    dict(type='pointwise', merge=True, norm=True),
    'repvgg',
    'asymmetric',
    'twin',
]


def network() -> nn.Module:
    """Kernels of several sizes; one layer runs twice."""
    torch.manual_seed(0)
    shared = nn.Conv2d(12, 12, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        shared,
        nn.ReLU(),
        shared,
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(24, 4, 1),
    )


def measured(model: nn.Module) -> float:
    """Multiply-adds of a training step's forward, by torch."""
    model.train()
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(2, 3, 8, 8))
    return counter.get_total_flops() / 2 / 2


@pytest.mark.parametrize('bypass', BYPASSES, ids=str)
def test_branches_count_in_training(bypass: Any) -> None:
    dense = measured(network())
    model = network()
    pruner = attach(model, torch.rand(1, 3, 8, 8), bypass=bypass)
    found = step_cost(model, pruner, {'flops': 0.6})
    assert measured(model) / dense == pytest.approx(found.wide)
    pruner.begin({'flops': 0.6}, steps=1)
    pruner.step()
    small = narrow(model, pruner.plan())
    after = measured(small) / dense
    # Apart by a point of the budget, by what grouped kernels lose, and since
    # the bound takes every layer for the one with the dearest branch.
    assert found.narrow - 0.1 < after <= found.narrow


def test_a_whole_run() -> None:
    step = StepCost(1.1, 0.5)
    assert step.of_run(4, 10) == pytest.approx(7.4)
    assert step.of_run(12, 10) == pytest.approx(11)


@pytest.mark.parametrize('narrow', [0.1, 0.403, 0.5, 0.9])
@pytest.mark.parametrize('wide', [1.0, 1.2, 2.0])
@pytest.mark.parametrize('share', [0.8, 1.0, 1.5])
def test_the_longest_run_within_the_cost(
    narrow: float, wide: float, share: float
) -> None:
    step = StepCost(wide, narrow)
    for length in (7, 100, 391):
        for end in (1, length / 3, length):
            new = step.stretched(end, length, share)
            scale = new / length
            cost = step.of_run(end * scale, new)
            assert cost <= share * length + 1e-6
            assert cost + step.of_run(end, length) / length > share * length


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (('half', None), "train_cost='half': expected 'dense', or a number"),
        ((-1, None), 'train_cost=-1: expected a number above 0'),
        ((None, dict(epochs=6)), "'epochs': 6} without train_cost"),
        ((1, dict(steps=6)), "'steps': 6}: expected dict"),
        ((1, dict(epochs=6, iters=7)), 'expected dict'),
        ((None, None, 4), 'epoch_iters=4 has no effect without train_cost'),
        ((1, None, 0.5), 'epoch_iters=0.5: expected a whole number'),
        ((1, dict(epochs=0)), 'dense_length=0: expected a whole number'),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(PruningError, match=text):
        TrainCost(*arguments)


def test_nothing_is_said_where_nothing_is_asked() -> None:
    cost: Any = TrainCost(None, None)
    cost.check_settings({'parameters': 0.5}, False)
    cost.check_applied()
    cost.check(None, None, {}, 0)
    assert cost.without_narrowing(None) == ''


def test_a_phase_that_is_resumed_elsewhere_may_cost_more() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 9, 9))
    said: list[str] = []
    runner: Any = SimpleNamespace(
        model=model,
        max_epochs=9,
        max_iters=36,
        logger=SimpleNamespace(info=said.append),
    )
    cost, target = TrainCost('dense', dict(epochs=6)), {'flops': 0.5}
    cost.check(runner, pruner, target, end=12)
    with pytest.raises(PruningError, match=r'the run costs 1\.125 of dense'):
        cost.check(runner, pruner, target, end=18)
    pruner.begin(target, steps=18)
    cost.check(runner, pruner, target, end=18)
    assert [text.split('most ')[1].split(' of')[0] for text in said] == [
        '100.00 %',
        '112.50 %',
        '112.50 %',
    ]


def test_a_run_that_is_not_narrowed_says_what_it_costs() -> None:
    cost = TrainCost('dense', dict(epochs=6))
    runner: Any = SimpleNamespace(max_epochs=9, max_iters=36)
    assert 'costs 150 % of dense' in cost.without_narrowing(runner)
    cost = TrainCost(0.5, dict(iters=30))
    assert 'costs 120 % of dense' in cost.without_narrowing(runner)
