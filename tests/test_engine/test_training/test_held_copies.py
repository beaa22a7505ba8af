# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Wide copies that hooks of a user hold are named once the model is small."""

from collections.abc import Callable
from typing import Any

import pytest
from mmengine.hooks import Hook
from mmengine.model import StochasticWeightAverage
from mmengine.runner import Runner
from torch import nn
from torch.optim.swa_utils import AveragedModel

MakeRunner = Callable[..., Runner]


class Held(Hook):
    """Holds something of the model."""

    def __init__(self, take: Callable[[nn.Module], Any]) -> None:
        self.take = take

    def before_train(self, runner: Runner) -> None:
        self.mine = self.take(runner.model)


def endless(*parts: Any) -> list[Any]:
    """Contains itself."""
    found = list(parts)
    found.append({'again': found})
    return found


def stem(model: nn.Module) -> nn.Parameter:
    return model.backbone.conv1.weight


def frozen(model: nn.Module) -> list[nn.Parameter]:
    return [p for n, p in model.named_parameters() if 'layer1' in n]


class Told(Held):
    """Makes it anew."""

    def after_pruning(self, runner: Runner) -> None:
        self.before_train(runner)


def weights(model: nn.Module) -> dict[str, Any]:
    return {name: v.clone() for name, v in model.state_dict().items()}


def warnings_of(runner: Runner, hook: Hook) -> list[str]:
    runner.register_hook(hook)
    runner.logger.warning = (said := []).append
    runner.train()
    assert not hasattr(runner.model, 'pruner')
    return [text for text in said if text.startswith('Pruning:')]


@pytest.mark.parametrize(
    'take', [AveragedModel, StochasticWeightAverage, weights]
)
def test_a_copy_that_stays_wide_is_named(
    make_runner: MakeRunner, take: Callable[..., Any]
) -> None:
    (text,) = warnings_of(make_runner(epochs=2, narrow=True), Held(take))
    assert 'Held.mine has weights of the model as it was before' in text
    assert 'after_pruning(runner)' in text
    assert 'narrow=False' in text


@pytest.mark.parametrize(
    'take',
    [
        stem,
        frozen,
        lambda model: tuple(model.parameters()),
        lambda model: set(model.parameters()),
        lambda model: dict(model.named_parameters()).values(),
        lambda model: {p: p.clone() for p in frozen(model)},
        lambda model: nn.ParameterList(frozen(model)),
        lambda model: [dict(params=frozen(model), lr=0.1)],
        lambda model: endless(endless(1), stem(model)),
        lambda model: model.backbone.bn1.running_mean,
    ],
    ids=[
        'one',
        'list',
        'tuple',
        'set',
        'values',
        'keys',
        'module',
        'groups',
        'endless',
        'buffer',
    ],
)
def test_what_narrowing_replaces_is_named(
    make_runner: MakeRunner, take: Callable[..., Any]
) -> None:
    (text,) = warnings_of(make_runner(epochs=2, narrow=True), Held(take))
    assert 'Held.mine has weights of the model as it was before' in text
    assert 'which the model has no longer' in text


@pytest.mark.parametrize(
    'hook',
    [
        Told(AveragedModel),
        Held(lambda model: model),
        Held(lambda model: model.backbone),
        Held(lambda model: nn.Linear(2, 2)),
        Held(lambda model: {'metric': 1.0}),
        Told(frozen),
        Held(lambda model: [model.head.fc.bias, model.backbone]),
        Held(lambda model: endless(1, 'text', model.head.fc.bias)),
        Held(lambda model: list(model.pruner.buffers())),
    ],
    ids=[
        'told',
        'model',
        'part',
        'other',
        'numbers',
        'told of a list',
        'what stays',
        'endless',
        'pruner',
    ],
)
def test_nothing_is_said_of_what_follows_or_is_no_copy(
    make_runner: MakeRunner, hook: Hook
) -> None:
    assert warnings_of(make_runner(epochs=2, narrow=True), hook) == []


def test_averages_of_mmengine_follow_and_masks_fit_all(
    make_runner: MakeRunner,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['custom_hooks'].append(dict(type='EMAHook'))

    runner = make_runner(change, epochs=2, narrow=True)
    assert warnings_of(runner, Hook()) == []
    runner = make_runner(epochs=2, narrow=False)
    hook = Held(AveragedModel)
    runner.register_hook(hook)
    runner.logger.warning = (said := []).append
    runner.train()
    assert not [text for text in said if 'Held' in text]
