# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a run are found, wrapped or not."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.model import BaseTTAModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import PruningError, attach
from mmlapp.engine.models.plans import narrow_model
from mmlapp.engine.training.parts import (
    find_pruner,
    narrowed_plan,
    own_pruner,
    run_optimizer,
    unwrap,
)

MakeRunner = Callable[..., Runner]


class Augmented(BaseTTAModel):
    """Merges nothing."""

    def merge_preds(self, data_samples_list: Any) -> Any:
        return data_samples_list


class Tiny(nn.Linear):
    """What test-time augmentation takes."""

    def test_step(self, data: Any) -> Any:
        return data


def test_models_are_unwrapped() -> None:
    model = Tiny(2, 2)
    assert unwrap(model) is model
    assert unwrap(Augmented(model)) is model


def test_a_model_without_a_pruner_is_named() -> None:
    with pytest.raises(PruningError, match='Tiny has no pruner'):
        find_pruner(Augmented(Tiny(2, 2)))


class Interrupted(nn.Sequential):
    """Its forward is ended by Ctrl-C, while the pruner is hidden."""

    def forward(self, x: Any) -> Any:
        if not torch.is_grad_enabled():  # as it is analysed
            return self[-1](self[0](x))
        raise KeyboardInterrupt


def test_a_pruner_that_an_interrupted_forward_hid_is_found() -> None:
    model = Interrupted(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    with pytest.raises(KeyboardInterrupt):
        model(torch.rand(1, 3, 8, 8))
    assert find_pruner(model) is pruner
    assert own_pruner(model) is pruner
    assert own_pruner(nn.Linear(2, 2)) is None


def test_a_narrow_model_without_a_pruner_is_told_apart() -> None:
    """Its weights made it narrow, or its config did."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.begin({'flops': 0.5}, 1)
    pruner.finish()
    narrow_model(model, pruner.plan())
    with pytest.raises(PruningError, match='narrow already, and not by mml'):
        find_pruner(model)


def test_the_optimizer_is_found_once_it_is_built() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer)
    for found, expected in (
        (wrapper, optimizer),
        (None, None),
        (dict(type='OptimWrapper'), None),
        (OptimWrapperDict(a=wrapper), None),
    ):
        runner: Any = SimpleNamespace(optim_wrapper=found)
        assert run_optimizer(runner) is expected


def test_the_plan_of_a_run_is_that_of_its_hook(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(narrow=True)
    assert narrowed_plan(runner) is None
    inside = set(vars(runner.model))
    pruner = find_pruner(runner.model)
    runner.train()
    plan = narrowed_plan(runner)
    assert plan is not None
    assert plan.groups.keys() == {group.name for group in pruner.groups}
    # Nothing but the plan is left in the model of the user.
    assert set(vars(runner.model)) <= inside | {'_pruning_plans'}
    assert not hasattr(runner.model, 'lapp')
    assert runner.optim_wrapper.pruner is None
