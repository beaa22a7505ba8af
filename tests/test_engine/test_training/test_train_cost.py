# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a whole run costs, as a fraction of dense training."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmlapp.core import Pruner, PruningError, attach
from mmlapp.engine.training.step_cost import TeacherCost
from mmlapp.engine.training.train_cost import TrainCost


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (('half', None), "train_cost='half': expected 'dense', or a number"),
        ((-1, None), 'train_cost=-1: expected a number above 0'),
        ((None, dict(epochs=6)), "'epochs': 6} without train_cost"),
        ((1, 6), 'dense_length=6: expected dict'),
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
    cost.check(None, None, {}, 0, 0)
    assert cost.without_narrowing(None) == ''


def prepared(hooks: list[Any]) -> tuple[Any, Pruner, list[str]]:
    """A runner of nine epochs of four steps, and what is said to it."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 9, 9))
    said: list[str] = []
    runner: Any = SimpleNamespace(
        model=model,
        max_epochs=9,
        max_iters=36,
        logger=SimpleNamespace(info=said.append),
        hooks=hooks,
        cfg={},
    )
    return runner, pruner, said


def test_a_phase_that_is_resumed_elsewhere_may_cost_more() -> None:
    runner, pruner, said = prepared([])
    cost, target = TrainCost('dense', dict(epochs=6)), {'flops': 0.5}
    cost.check(runner, pruner, target, 0, end=12)
    with pytest.raises(PruningError, match=r'the run costs 1\.125 of dense'):
        cost.check(runner, pruner, target, 0, end=18)
    pruner.begin(target, steps=18)
    cost.check(runner, pruner, target, 0, end=18)
    assert [text.split('most ')[1].split(' of')[0] for text in said] == [
        '100.00 %',
        '112.50 %',
        '112.50 %',
    ]


def test_a_phase_may_end_an_iteration_late() -> None:
    """It lasts for one at the least, however short it was asked."""
    runner, pruner, _ = prepared([])
    cost, target = TrainCost('dense', dict(epochs=6)), {'flops': 0.5}
    # 13 + 23 / 2 = 24.5 of 24 dense steps; 16 + 20 / 2 = 26.
    cost.check(runner, pruner, target, 0, end=13)
    with pytest.raises(PruningError, match=r'the run costs 1\.083 of dense'):
        cost.check(runner, pruner, target, 0, end=16)


class Teaching:
    """A hook with a teacher that costs as much as the dense network."""

    def teacher_cost(self, cfg: Any) -> TeacherCost:
        return TeacherCost(1 / 3, late=True)


def test_a_teacher_that_was_added_afterwards_is_refused() -> None:
    runner, pruner, said = prepared([object(), Teaching()])
    cost, target = TrainCost('dense', dict(epochs=6)), {'flops': 0.5}
    # 12 + 24 / 2 = 24 of 24 steps, and a third of the 27 after the begin.
    with pytest.raises(PruningError, match=r'the run costs 1\.375 of dense'):
        cost.check(runner, pruner, target, 9, 12)
    # Until step 24 dense, then narrow: 24 + 6, and a third of 12.
    TrainCost(1.5, dict(epochs=6)).check(runner, pruner, target, 24, 24)
    assert '141.67 % of dense training with its teacher' in said[1]


def test_a_run_that_is_not_narrowed_says_what_it_costs() -> None:
    cost = TrainCost('dense', dict(epochs=6))
    runner: Any = SimpleNamespace(max_epochs=9, max_iters=36)
    assert 'costs 150 % of dense' in cost.without_narrowing(runner)
    cost = TrainCost(0.5, dict(iters=30))
    assert 'costs 120 % of dense' in cost.without_narrowing(runner)
