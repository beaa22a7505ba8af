# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a training step costs, as a fraction of one of the dense network."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.core import attach, narrow
from mmlapp.engine.training.step_cost import (
    StepCost,
    TeacherCost,
    step_cost,
    teacher_of,
)

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


@pytest.mark.parametrize(('late', 'cost'), [(False, 9.5), (True, 8.75)])
def test_a_teacher_costs_from_where_it_begins(late: bool, cost: float) -> None:
    plain = StepCost(1.0, 0.5)
    assert plain.with_teacher(None, 3) is plain
    step = plain.with_teacher(TeacherCost(0.25, late), begin=3)
    # 4 wide steps and 6 narrow ones, and a quarter of 10, or of 7.
    assert step.of_run(4, 10) == cost
    assert step.of_run(4, 2) == (2 if late else 2.5)
    assert step.stretched(4, 10, share=1) == int(100 / cost)


def test_the_hook_with_a_teacher_says_what_it_costs() -> None:
    class Teaching:
        def teacher_cost(self, cfg: dict[str, float]) -> TeacherCost:
            return TeacherCost(cfg['share'], late=False)

    found = teacher_of([object(), Teaching()], {'share': 0.5})
    assert found == TeacherCost(0.5, late=False)
    assert teacher_of([object()], {}) is None
