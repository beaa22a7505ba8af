# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores of the dense network do not rule the pruned one."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.logging import MessageHub
from mmengine.optim import ReduceOnPlateauLR
from torch import nn, optim

from mmlapp.core import Phase
from mmlapp.engine.training.best_scores import (
    forget_entry,
    hold,
    start_anew,
    warn_of_others,
)


class Log:
    """Collects messages."""

    def __init__(self) -> None:
        self.text = ''

    def info(self, message: str) -> None:
        self.text += message

    warning = info


def run(*hooks: Hook, schedulers: Any = None) -> Any:
    return SimpleNamespace(
        hooks=list(hooks),
        param_schedulers=schedulers,
        message_hub=MessageHub('best'),
        logger=Log(),
    )


@pytest.mark.parametrize('rule', ['greater', 'less'])
def test_early_stopping_waits_anew(rule: str) -> None:
    hook = EarlyStoppingHook('score', rule=rule, patience=2)
    good, bad = (9.0, 1.0) if rule == 'greater' else (1.0, 9.0)
    assert not hook._check_stop_condition(good)[0]
    assert not hook._check_stop_condition(bad)[0]
    start_anew(run(hook))
    # The first score of the new network is its best one.
    stops = [hook._check_stop_condition(bad)[0] for _ in range(3)]
    assert stops == [False, False, True]


def plateau(rule: str = 'greater') -> Any:
    optimizer = optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    return ReduceOnPlateauLR(
        optimizer, 'score', rule=rule, patience=1, cooldown=4, begin=0
    )


@pytest.mark.parametrize('nested', [False, True])
def test_plateau_schedulers_start_anew(nested: bool) -> None:
    scheduler = plateau()
    for score in (9.0, 1.0, 1.0):
        scheduler.step(dict(score=score))
    assert scheduler.optimizer.param_groups[0]['lr'] == pytest.approx(0.1)
    assert scheduler.cooldown_counter == 4
    lists = {'lr': [scheduler]} if nested else [scheduler]
    start_anew(run(schedulers=lists))
    assert scheduler.best < 1.0
    assert scheduler.cooldown_counter == scheduler.num_bad_epochs == 0
    assert scheduler.optimizer.param_groups[0]['lr'] == pytest.approx(0.1)


@pytest.mark.parametrize('metrics', [['a'], ['a', 'b']])
def test_save_best_starts_anew_and_keeps_the_file(
    metrics: list[str],
) -> None:
    hook = CheckpointHook(save_best=metrics, rule='greater')
    runner = run(hook)
    suffixes = [''] if len(metrics) == 1 else [f'_{m}' for m in metrics]
    for suffix in suffixes:
        runner.message_hub.update_info(f'best_score{suffix}', 9.0)
        runner.message_hub.update_info(f'best_ckpt{suffix}', f'x{suffix}.pth')
    runner.message_hub.update_info('best_of_mine', 1)
    if len(metrics) == 1:
        hook.best_ckpt_path = 'x.pth'
    else:
        hook.best_ckpt_path_dict = {m: f'x_{m}.pth' for m in metrics}
    start_anew(runner)
    saved = runner.message_hub.state_dict()
    assert list(saved['runtime_info']) == ['best_of_mine']
    assert list(saved['resumed_keys']) == ['best_of_mine']
    if len(metrics) == 1:
        assert hook.best_ckpt_path is None
    else:
        assert hook.best_ckpt_path_dict == {'a': None, 'b': None}
    for suffix in suffixes:
        assert f'x{suffix}.pth is of the network before' in runner.logger.text


class Mine(Hook):
    """Keeps a score in a way that nobody knows."""

    def __init__(self) -> None:
        self._best_loss = 1.0


class Told(Mine):
    """Knows how to start anew."""

    def after_pruning(self, runner: Any) -> None:
        self._best_loss = math.inf


def test_other_hooks_are_asked_or_named() -> None:
    told = Told()
    runner = run(told, Mine(), CheckpointHook(save_best='a', rule='less'))
    warn_of_others(runner)
    assert runner.logger.text.startswith('Pruning: Mine may keep')
    start_anew(runner)
    assert told._best_loss == math.inf


class Shared(Hook):
    """Keeps a first score for all hooks of its class."""

    best = 0.0


def test_scores_of_a_class_are_seen() -> None:
    runner = run(Shared())
    warn_of_others(runner)
    assert runner.logger.text.startswith('Pruning: Shared may keep')


class Inside(Hook):
    """Keeps its score in what it holds."""

    def __init__(self, place: Any) -> None:
        self.place = place


@pytest.mark.parametrize(
    ('place', 'told'),
    [
        (dict(best=0.5), True),
        (SimpleNamespace(val_best=0.5), True),
        (CheckpointHook(), False),  # which is asked itself
        (dict(last=0.5), False),
        (1.0, False),
    ],
)
def test_scores_inside_of_other_objects(place: Any, told: bool) -> None:
    runner = run(Inside(place))
    warn_of_others(runner)
    assert ('Inside may keep' in runner.logger.text) == told


def test_nothing_is_said_of_usual_hooks() -> None:
    runner = run(
        EarlyStoppingHook('acc'),
        CheckpointHook(save_best='acc'),
        Told(),
        schedulers=[plateau()],
    )
    warn_of_others(runner)
    assert runner.logger.text == ''


@pytest.mark.parametrize(
    ('phase', 'stopping', 'rate'),
    [
        (Phase.DENSE, True, False),
        (Phase.PRUNING, True, True),
        (Phase.FINISHED, False, False),
    ],
)
def test_patience_is_kept_for_the_network_that_stays(
    phase: Phase, stopping: bool, rate: bool
) -> None:
    hook, scheduler = EarlyStoppingHook('score', rule='greater'), plateau()
    hook.best_score = scheduler.best = 9.0
    hold(run(hook, schedulers=[scheduler]), phase)
    assert (hook.best_score == -math.inf) == stopping
    assert (scheduler.best < 9.0) == rate


@pytest.mark.parametrize('phase', [Phase.DENSE, Phase.PRUNING])
@pytest.mark.parametrize(('rule', 'good'), [('greater', 9.0), ('less', 1.0)])
def test_a_good_score_of_the_wide_network_ends_no_training(
    phase: Phase, rule: str, good: float
) -> None:
    hook = EarlyStoppingHook('score', rule=rule, stopping_threshold=5.0)
    runner = run(hook)
    for _ in range(2):
        hold(runner, phase)
        assert not hook._check_stop_condition(good)[0]
    start_anew(runner)
    # The small network has to reach it.
    assert hook.stopping_threshold == 5.0
    assert not hook._check_stop_condition(10.0 - good)[0]
    assert hook._check_stop_condition(good)[0]


def test_a_scalar_is_forgotten() -> None:
    hub = MessageHub('scalars')
    hub.update_scalar('train/loss_pruning', 1.0)
    forget_entry(hub, 'train/loss_pruning')
    forget_entry(hub, 'train/nothing')
    assert not any(hub.state_dict().values())
