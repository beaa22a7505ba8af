# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints.state import (
    HUB,
    check_complete,
    check_resumable,
    check_version,
)

STATE: dict[str, Any] = {
    'meta': {'iter': 4, 'epoch': 1},
    'message_hub': {name: {} for name in HUB},
}


@pytest.mark.parametrize(
    ('name', 'value', 'text'),
    [
        ('meta', 'x', r'meta\.iter of the checkpoint is None'),
        ('meta', {'iter': -4, 'epoch': 1}, r'meta\.iter .* is -4'),
        ('meta', {'iter': 4, 'epoch': 'x'}, r"meta\.epoch .* is 'x'"),
        ('message_hub', {}, 'message_hub of the checkpoint is {}'),
        ('message_hub', 'x', r"message_hub .*is \['x'\]"),
        ('param_schedulers', 'x', "param_schedulers .* is 'x'"),
    ],
)
def test_what_no_runner_has_written(name: str, value: Any, text: str) -> None:
    runner: Any = SimpleNamespace(_resume=True)
    with pytest.raises(PruningError, match=f'resume: {text}'):
        check_resumable(runner, {**STATE, 'state_dict': {}, name: value})


def test_weights_that_are_missing_are_not_made_up() -> None:
    model = nn.Linear(2, 3)
    weights: dict[str, Any] = dict(model.state_dict())
    check_complete(model, weights)
    for value in (None, 'a text', torch.ones(2)):
        with pytest.raises(PruningError, match=r'resume: bias .*\(3,\), in'):
            check_complete(model, {**weights, 'bias': value})


@pytest.mark.parametrize(
    ('entry', 'found'), [({'version': 7}, '7'), ({}, 'None'), ('x', 'None')]
)
def test_other_versions_are_named(entry: Any, found: str) -> None:
    text = f'has thing of version {found}: this release reads version 1'
    with pytest.raises(PruningError, match=text):
        check_version('thing', entry, 1)
    check_version('thing', {'version': 1}, 1)


def test_weights_alone_are_no_training_to_go_on_with() -> None:
    told: list[str] = []
    logger = SimpleNamespace(warning=told.append)
    weights: dict[str, Any] = {'meta': {}, 'state_dict': {}}
    resumed: Any = SimpleNamespace(
        _resume=True, logger=logger, train_loop=None, max_epochs=1, max_iters=9
    )
    with pytest.raises(PruningError, match=r'not the state .*load_from'):
        check_resumable(resumed, weights)
    weights.update(STATE)
    check_resumable(resumed, {**weights, 'optimizer': {}})
    assert not told
    check_resumable(resumed, weights)
    assert 'as those of save_best' in told.pop()
    for iters, count in ((5, 0), (4, 1), (3, 1)):
        resumed.max_iters = iters  # after the fourth
        check_resumable(resumed, {**weights, 'optimizer': {}})
        text = f'1 epochs or {iters} iterations: nothing is left'
        assert [text in t for t in told] == [True] * count
        told.clear()
    new: Any = SimpleNamespace(_resume=False, logger=logger)
    check_resumable(new, {'state_dict': {}})
    assert not told


def test_averages_that_nobody_follows_are_told() -> None:
    """EMAHook saves them in the place of the weights."""
    told: list[str] = []
    logger = SimpleNamespace(warning=told.append)
    checkpoint = {**STATE, 'optimizer': {}, 'ema_state_dict': {}}
    run: Any = SimpleNamespace(
        _resume=True, logger=logger, hooks=[], train_loop=None, max_iters=9
    )
    check_resumable(run, checkpoint)
    assert 'are averages of EMAHook' in told.pop()
    run.hooks = [EMAHook()]
    check_resumable(run, checkpoint)
    run._resume, run.hooks = False, []
    check_resumable(run, checkpoint)
    assert not told
