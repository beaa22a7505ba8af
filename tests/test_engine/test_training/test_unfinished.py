# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases of former runs, and phases that do not end."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmlapp.core import Phase, Pruner, attach
from mmlapp.engine.training.unfinished import start_afresh, warn_unfinished


def network() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    attach(model, torch.rand(1, 3, 8, 8))
    return model


def inside(model: nn.Module) -> Pruner:
    pruner = model.pruner
    assert isinstance(pruner, Pruner)
    pruner.begin({'flops': 0.5}, 4)
    pruner.step()
    pruner.gate.data[:3] = 0
    return pruner


def run(at: int, averaged: nn.Module | None = None) -> Any:
    said: list[str] = []
    hook = SimpleNamespace(ema_model=SimpleNamespace(module=averaged))
    return SimpleNamespace(
        iter=at,
        hooks=[] if averaged is None else [hook],
        logger=SimpleNamespace(info=said.append, warning=said.append),
        said=said,
    )


def test_weights_alone_begin_a_new_phase_in_copies_too() -> None:
    model, averaged = network(), network()
    pruner = inside(model)
    inside(averaged)
    runner = run(0, averaged)
    start_afresh(runner, pruner)
    for each in (model, averaged):
        state = each.pruner
        assert isinstance(state, Pruner)
        assert state.phase == Phase.DENSE
        assert state.gate.tolist() == [1.0] * 8
    assert '(step 1 of 4); a new one begins' in runner.said[0]


def test_a_resumed_phase_goes_on() -> None:
    pruner = inside(network())
    before = pruner.gate.clone()
    start_afresh(run(1), pruner)
    assert pruner.phase == Phase.PRUNING
    assert torch.equal(pruner.gate, before)


def test_a_finished_phase_stays_finished() -> None:
    pruner = inside(network())
    pruner.finish()
    runner = run(0)
    start_afresh(runner, pruner)
    assert pruner.phase == Phase.FINISHED
    warn_unfinished(runner, pruner)
    assert runner.said == []


@pytest.mark.parametrize(
    ('begun', 'text'),
    [(False, 'its phase had not begun'), (True, 'not ended (step 1 of 4)')],
)
def test_a_training_that_ends_too_early_is_named(
    begun: bool, text: str
) -> None:
    model, runner = network(), run(7)
    pruner = inside(model) if begun else model.pruner
    assert isinstance(pruner, Pruner)
    warn_unfinished(runner, pruner)
    assert 'training ended at iteration 7' in runner.said[0]
    assert text in runner.said[0]
