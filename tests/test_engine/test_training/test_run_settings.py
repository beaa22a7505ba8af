# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Settings against those of a checkpoint."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmlapp.core import PruningError, attach
from mmlapp.core.progress import Phase, Progress
from mmlapp.engine.training.run_settings import (
    RunSettings,
    check_dense,
    check_finished,
    check_places,
    check_resumed,
)

PHASE = dict(
    target={'flops': 0.5},
    end=None,
    prune_epochs=2,
    prune_iters=None,
    begin_iters=0,
)
NETWORK = dict(
    scope=['backbone'],
    keep_streams=False,
    method={'type': 'lapp'},
    bypass=None,
    min_keep=0,
    shrink=None,
    protect=0,
    groups={'a': 8},
)
PROGRESS = Progress(Phase.PRUNING, 2, 8, {'flops': 0.5})


def settings(**changed: Any) -> RunSettings:
    network, phase = (
        {name: changed.get(name, value) for name, value in part.items()}
        for part in (NETWORK, PHASE)
    )
    return RunSettings(network, phase)


def resume(steps: int = 8, **changed: Any) -> None:
    check_resumed(settings(), settings(**changed), PROGRESS, steps)


def test_the_same_settings_pass() -> None:
    resume()
    # Another number of batches is no other setting.
    resume(steps=4)
    # As long, said in another way.
    resume(prune_epochs=1, prune_iters=8)


@pytest.mark.parametrize(
    ('changed', 'steps'),
    [
        (dict(target={'flops': 0.3}), 8),
        (dict(target={'flops': 0.5, 'parameters': 0.5}), 8),
        (dict(prune_epochs=4), 16),
        (dict(prune_iters=5), 5),
        (dict(begin_iters=3), 8),
        (dict(end={'epoch': None, 'similarity': 0.999}), 8),
        (dict(scope=['head']), 8),
        (dict(keep_streams=True), 8),
        (dict(method={'type': 'uniform'}), 8),
        (dict(bypass={'type': 'depthwise'}), 8),
        (dict(min_keep=0.3), 8),
        (dict(shrink=4), 8),
        (dict(protect=0.2), 8),
        (dict(min_keep={'type': 'by_width'}), 8),
    ],
)
def test_inside_the_phase_all_settings_stay(
    changed: dict[str, Any], steps: int
) -> None:
    ((name, new),) = changed.items()
    old = {**NETWORK, **PHASE}[name]
    text = re.escape(f'{name}={new!r}, in the checkpoint {old!r}: the prun')
    with pytest.raises(PruningError, match=text):
        resume(steps, **changed)


def balance(**changed: Any) -> dict[str, Any]:
    return {'type': 'lapp', 'update': {'type': 'balance', **changed}}


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (dict(method='lapp'), dict(method=dict(type='lapp'))),
        (dict(method='lapp'), dict(method=balance())),
        (
            dict(method=dict(type='lapp', update='balance')),
            dict(method=dict(update=dict(type='balance'), type='lapp')),
        ),
        (
            dict(method='lapp'),
            dict(method=dict(type='lapp', surrogate=dict(type='sigmoid'))),
        ),
        (dict(method=balance()), dict(method=balance(task_weight=0.3))),
        (dict(bypass='depthwise'), dict(bypass=dict(type='depthwise'))),
        (
            dict(bypass='depthwise'),
            dict(bypass=dict(type='depthwise', norm=False)),
        ),
        (
            dict(min_keep='by_width'),
            dict(min_keep=dict(type='by_width', most=0.75)),
        ),
        (dict(min_keep=0), dict(min_keep=0.0)),
        (dict(shrink=4), dict(shrink=dict(type='linear', steps=4))),
        (dict(shrink='linear'), dict(shrink=1)),
        (
            dict(shrink='growing'),
            dict(shrink=dict(type='growing', gone=0.5)),
        ),
        (dict(score='l2'), dict(score=dict(type='l2'))),
        (dict(scope=('a', 'b')), dict(scope=['b', 'a', 'a'])),
        (dict(scope='a'), dict(scope=('a',))),
        (dict(costs=['flops']), dict(costs=(dict(type='flops'),))),
        (dict(input_shape=(3, 8, 8)), dict(input_shape=[3, 8, 8])),
        (dict(target=dict(flops=0.5)), dict(target=dict(flops=5e-1))),
    ],
)
def test_what_means_the_same_passes(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    pruner: Any = SimpleNamespace(groups=[])

    def noted(said: dict[str, Any]) -> RunSettings:
        network = {k: v for k, v in said.items() if k != 'target'}
        pruner.settings = network
        phase = {k: v for k, v in said.items() if k == 'target'}
        return RunSettings.of(pruner, {**PHASE, **phase})

    check_resumed(noted(old), noted(new), PROGRESS, 8)
    check_resumed(noted(new), noted(old), PROGRESS, 8)
    check_places(noted(old), noted(new))


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (dict(method={'type': 'lapp'}), dict(method=balance(task_weight=0))),
        (dict(method=balance()), dict(method={'type': 'lapp', 'x': 1})),
        (
            dict(bypass={'type': 'depthwise'}),
            dict(bypass={'type': 'depthwise', 'norm': True}),
        ),
        (dict(bypass=None), dict(bypass={'type': 'depthwise'})),
        # Of somebody who has not registered it here.
        (dict(method={'type': 'own'}), dict(method={'type': 'lapp'})),
        (dict(method='Own'), dict(method={'type': 'lapp'})),
    ],
)
def test_what_means_something_else_is_refused_as_it_was_said(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    ((name, before),), ((_, after),) = old.items(), new.items()
    text = re.escape(f'{name}={after!r}, in the checkpoint {before!r}: the')
    with pytest.raises(PruningError, match=text):
        check_resumed(settings(**old), settings(**new), PROGRESS, 8)


def test_costs_keep_their_order() -> None:
    """A checkpoint has their targets in it."""
    first, other = (
        RunSettings({'costs': costs}, {})
        for costs in (['flops', 'parameters'], ['parameters', 'flops'])
    )
    with pytest.raises(PruningError, match='costs='):
        check_places(first, other)


def test_without_noted_settings_the_targets_are_known() -> None:
    check_resumed(None, settings(scope=['head']), PROGRESS, 8)
    with pytest.raises(PruningError, match=r'target=.*load_from, without'):
        check_resumed(None, settings(target={'flops': 0.3}), PROGRESS, 8)


def test_all_that_differ_are_named_at_once() -> None:
    with pytest.raises(PruningError, match=r"target=.*0\.3.*; scope=\['x'\]"):
        resume(target={'flops': 0.3}, scope=['x'])


def test_groups_are_named_where_they_differ() -> None:
    with pytest.raises(PruningError) as info:
        check_places(
            settings(groups={'a': 8, 'b': 4, 'c': 2}),
            settings(groups={'a': 8, 'b': 6, 'c': 2}),
        )
    assert "groups={'b': 6}, in the checkpoint {'b': 4}" in str(info.value)


def test_the_method_does_not_decide_on_places() -> None:
    check_places(settings(), settings(method={'type': 'uniform'}))
    check_places(None, settings())


def test_before_the_phase_only_bypasses_count() -> None:
    check_dense(settings(), settings(scope=['head'], target={'flops': 0.1}))
    check_dense(None, settings(bypass={'type': 'depthwise'}))
    with pytest.raises(PruningError, match='bypass=None, in the checkpoint'):
        check_dense(settings(bypass={'type': 'depthwise'}), settings())


def test_after_the_phase_the_target_counts() -> None:
    check_finished({'flops': 0.5}, {'flops': 0.5})
    check_finished({}, {'flops': 0.3})
    with pytest.raises(PruningError, match=r'0\.3.*0\.5.*tools/deploy\.py'):
        check_finished({'flops': 0.5}, {'flops': 0.3})


def test_settings_are_those_of_any_config() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.settings = dict(
        scope='*',
        method=ConfigDict(type='lapp', update=dict(type='balance')),
        score=nn.ReLU(),
        unit='channels',
        input_shape=(3, 8, 8),
        bypass=None,
    )
    checkpoint: dict[str, Any] = {}
    RunSettings.of(pruner, PHASE).write(checkpoint)
    found = RunSettings.read(checkpoint)
    assert found is not None
    assert found.network == dict(
        scope=['*'],
        method={'type': 'lapp', 'update': {'type': 'balance'}},
        score='ReLU',
        unit={'type': 'channels'},
        input_shape=[3, 8, 8],
        bypass=None,
        groups={'0': 8},
    )
    assert type(found.network['method']) is dict
    assert found.phase == PHASE
    assert RunSettings.read({}) is None
    checkpoint['pruning_settings']['version'] = 7
    with pytest.raises(PruningError, match='pruning_settings of version 7'):
        RunSettings.read(checkpoint)


@pytest.mark.parametrize(
    'entry', [{'network': {}}, {'network': 3, 'phase': {}}, {'phase': {}}]
)
def test_settings_without_a_half(entry: dict[str, Any]) -> None:
    checkpoint = {'pruning_settings': {'version': 1, **entry}}
    with pytest.raises(PruningError, match=r'pruning_settings .* is damaged'):
        RunSettings.read(checkpoint)
