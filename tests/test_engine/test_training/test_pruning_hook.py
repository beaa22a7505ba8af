# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Runs that cannot prune, and hooks that go with the one that does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import PruningError, PruningWarning

MakeRunner = Callable[..., Runner]


@pytest.mark.parametrize('kind', ['mmlapp.PruningHook', 'EMAHook'])
def test_two_hooks_are_refused(make_runner: MakeRunner, kind: str) -> None:
    """Of two averages a checkpoint would have the second alone."""

    def twice(config: dict[str, Any]) -> None:
        hook = dict(type='mmlapp.PruningHook')
        config['custom_hooks'] = [hook, dict(type=kind), dict(type='EMAHook')]

    name = kind.removeprefix('mmlapp.')
    with pytest.raises(PruningError, match=f'2 hooks of type {name}'):
        make_runner(twice).train()


@pytest.mark.parametrize(
    'kind', ['OptimWrapper', 'mmlapp.PruningOptimWrapper']
)
def test_a_run_that_lost_its_hook_is_named(
    make_runner: MakeRunner, kind: str
) -> None:
    def lose(config: dict[str, Any]) -> None:
        config['custom_hooks'] = []
        config['optim_wrapper']['type'] = kind

    runner = make_runner(lose, epochs=1)
    if kind == 'OptimWrapper':
        with pytest.warns(PruningWarning, match='nothing prunes it'):
            runner.train()
    else:
        with pytest.raises(PruningError, match='has nothing to step'):
            runner.train()


def change_hook(**arguments: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config['custom_hooks'][0].update(arguments)


def test_a_phase_longer_than_training_is_refused(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(change_hook(prune_epochs=4))
    with pytest.raises(PruningError, match=r'ends at iteration 16.*at 12'):
        runner.train()


def test_an_unreachable_target_states_the_minimum(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(change_hook(target=dict(flops=0.01)))
    with pytest.raises(PruningError, match=r'reachable minimum of 0\.\d+'):
        runner.train()


def test_a_model_without_a_pruner_is_refused(
    make_runner: MakeRunner,
) -> None:
    def plain(config: dict[str, Any]) -> None:
        model = config['model']
        model['type'] = model.pop('architecture')
        del model['input_shape']

    with pytest.raises(PruningError, match='ImageClassifier has no pruner'):
        make_runner(plain).train()


def test_a_plain_optimizer_wrapper_is_refused(
    make_runner: MakeRunner,
) -> None:
    def plain(config: dict[str, Any]) -> None:
        config['optim_wrapper']['type'] = 'OptimWrapper'

    with pytest.raises(PruningError, match='does not step the pruner'):
        make_runner(plain).train()


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(name='TestTwo', force=True)
class Two:
    """An optimizer for the backbone and another one for the head."""

    def __init__(self, optim_wrapper_cfg: Any, paramwise_cfg: Any) -> None:
        self.kind = OPTIM_WRAPPERS.get(optim_wrapper_cfg['type'])

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        parts = dict(backbone=model.backbone, head=model.head)
        return OptimWrapperDict(
            **{
                name: self.kind(torch.optim.SGD(part.parameters(), lr=0.1))
                for name, part in parts.items()
            }
        )


@pytest.mark.parametrize(
    'kind', ['OptimWrapper', 'mmlapp.PruningOptimWrapper']
)
def test_several_optimizers_are_refused(
    make_runner: MakeRunner, kind: str
) -> None:
    def two(config: dict[str, Any]) -> None:
        config['optim_wrapper'].update(type=kind, constructor='TestTwo')

    text = 'several optimizers are not supported.* a single type='
    with pytest.raises(PruningError, match=text):
        make_runner(two).train()


def test_a_narrow_model_is_not_trained_by_several_optimizers(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """They have the wide parameters, and nothing would be learned."""

    def two(config: dict[str, Any]) -> None:
        config['optim_wrapper'].update(constructor='TestTwo')
        config['load_from'] = str(tmp_path / 'epoch_2.pth')

    make_runner(narrow=True, epochs=2).train()
    with pytest.raises(PruningError, match='several optimizers'):
        make_runner(two, narrow=True, epochs=3).train()


def kinds(runner: Runner) -> list[str]:
    return [type(hook).__name__ for hook in runner.hooks]


def test_a_run_gets_the_hooks_that_go_with_pruning(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner()
    runner.call_hook('before_run')
    runner.call_hook('before_run')
    names = kinds(runner)
    place = names.index('PruningHook')
    assert names[place - 1 : place + 1] == ['RankCheckHook', 'PruningHook']
    assert runner.hooks[place - 1].interval == 2
    assert names[-2:] == ['RandomStateHook', 'SafeCheckpointHook']
    assert len(names) == len(set(names))


def test_hooks_of_the_config_are_kept(make_runner: MakeRunner) -> None:
    def change(config: dict[str, Any]) -> None:
        config['default_hooks']['checkpoint']['type'] = (
            'mmlapp.SafeCheckpointHook'
        )
        config['custom_hooks'] += [
            dict(type='mmlapp.RandomStateHook', priority='LOW'),
            dict(type='mmlapp.RankCheckHook', interval=7),
        ]

    runner = make_runner(change)
    before = list(runner.hooks)
    runner.call_hook('before_run')
    assert runner.hooks == before


def test_checkpoint_hooks_that_act_early_still_come_after_random_numbers(
    make_runner: MakeRunner,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['default_hooks']['checkpoint']['priority'] = 'NORMAL'

    runner = make_runner(change)
    runner.train()
    names = kinds(runner)
    place = names.index('SafeCheckpointHook')
    assert names[place - 1] == 'RandomStateHook'
