# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases of former runs, and phases that do not end."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from mmlapp.core import Phase, Pruner, PruningError, attach
from mmlapp.engine.training.unfinished import (
    forget_phase,
    loaded_phase,
    start_afresh,
    takes_weights_alone,
    warn_unfinished,
)


def network(width: int = 8) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, 4, 3))
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


def saved(model: nn.Module, averaged: bool = False) -> dict[str, Any]:
    state = model.state_dict()
    checkpoint: dict[str, Any] = {'state_dict': {**state}}
    if averaged:
        wrapped = {f'module.{name}': value for name, value in state.items()}
        checkpoint['ema_state_dict'] = {**wrapped, 'steps': 3}
    return checkpoint


@pytest.mark.parametrize('numbers', [[float('nan'), 1, 5], [3.0, 1, 5], []])
def test_a_phase_that_there_is_not(numbers: list[float]) -> None:
    state = {'pruner.progress': torch.tensor(numbers)}
    with pytest.raises(PruningError, match='progress of the state dict is'):
        loaded_phase({'state_dict': state})


def test_a_checkpoint_tells_its_phase() -> None:
    model = network()
    pruner = model.pruner
    assert isinstance(pruner, Pruner)
    assert loaded_phase(saved(model)) == Phase.DENSE
    inside(model)
    assert loaded_phase(saved(model)) == Phase.PRUNING
    pruner.finish()
    assert loaded_phase(saved(model)) == Phase.FINISHED
    assert loaded_phase(saved(nn.Linear(2, 2))) is None
    assert loaded_phase({}) is None


@pytest.mark.parametrize('averaged', [False, True])
def test_a_checkpoint_forgets_its_phase(averaged: bool) -> None:
    """Also where its masks are of a network with other groups."""
    old, new = network(), network(6)
    inside(old)
    checkpoint, runner = saved(old, averaged), run(0)
    weights = checkpoint['state_dict']['0.weight']
    pruner = new.pruner
    assert isinstance(pruner, Pruner)
    forget_phase(runner, checkpoint, pruner)
    assert checkpoint['state_dict']['0.weight'] is weights
    parts = [('state_dict', '')]
    parts += [('ema_state_dict', 'module.')] if averaged else []
    assert set(checkpoint) == {part for part, _ in parts}
    for part, prefix in parts:
        state = checkpoint[part]
        assert state[f'{prefix}pruner.gate'].tolist() == [1.0] * 6
        assert state[f'{prefix}pruner.progress'][0] == Phase.DENSE
        mine = {name for name in state if name.startswith(f'{prefix}pruner.')}
        assert mine == {f'{prefix}pruner.{n}' for n in pruner.state_dict()}
    assert 'only its weights are taken' in runner.said[0]
    # What is loaded later does not change with the pruner.
    pruner.gate.data.zero_()
    assert checkpoint['state_dict']['pruner.gate'].all()


def test_a_dense_checkpoint_has_nothing_to_forget() -> None:
    model, runner = network(), run(0)
    pruner = model.pruner
    assert isinstance(pruner, Pruner)
    forget_phase(runner, saved(model), pruner)
    assert runner.said == []


@pytest.mark.parametrize(
    ('training', 'resume', 'alone'),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_only_a_new_training_takes_weights_alone(
    training: bool, resume: bool, alone: bool
) -> None:
    loop = object.__new__(EpochBasedTrainLoop) if training else {}
    runner: Any = SimpleNamespace(_train_loop=loop, _resume=resume)
    assert takes_weights_alone(runner) == alone


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
