# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The state of an optimizer is taken by one of its class alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from torch import nn, optim

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints.optimizers import (
    KEY,
    check_optimizer,
    note_optimizer,
)

MakeRunner = Callable[..., Runner]


def make(kind: str) -> Any:
    return getattr(optim, kind)([nn.Parameter(torch.ones(2))], lr=0.1)


def saved(kind: str, noted: bool = True) -> dict[str, Any]:
    optimizer = make(kind)
    optimizer.param_groups[0]['params'][0].square().sum().backward()
    optimizer.step()
    checkpoint: dict[str, Any] = {'optimizer': optimizer.state_dict()}
    note_optimizer(optimizer if noted else None, checkpoint)
    return checkpoint


@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'AdamW', 'RMSprop', 'Rprop'])
@pytest.mark.parametrize('noted', [True, False])
def test_of_the_same_class_it_is_taken(kind: str, noted: bool) -> None:
    optimizer, checkpoint = make(kind), saved(kind, noted)
    assert (KEY in checkpoint) == noted
    check_optimizer(optimizer, checkpoint)
    # As a release wrote it that knew fewer settings, which torch fills in.
    del checkpoint['optimizer']['param_groups'][0]['maximize']
    check_optimizer(optimizer, checkpoint)
    assert optimizer.state == {}


@pytest.mark.parametrize(
    ('own', 'other'), [('AdamW', 'Adam'), ('SGD', 'Adam'), ('Adam', 'SGD')]
)
def test_both_classes_are_named(own: str, other: str) -> None:
    text = f'optimizer={own}, in the checkpoint {other}: .*Resume with the'
    with pytest.raises(PruningError, match=text):
        check_optimizer(make(own), saved(other))


def test_where_nothing_was_noted_what_is_missing_is_told() -> None:
    text = 'optimizer=Adam has settings .* checkpoint, betas, eps: '
    with pytest.raises(PruningError, match=text):
        check_optimizer(make('Adam'), saved('SGD', noted=False))


@pytest.mark.parametrize('state', [{}, [], {'param_groups': []}])
def test_what_is_no_state(state: Any) -> None:
    with pytest.raises(PruningError, match='checkpoint, param_groups: '):
        check_optimizer(make('SGD'), {'optimizer': state})


@pytest.mark.parametrize('noted', [True, False])
def test_a_run_that_is_resumed_with_another_one(
    make_runner: MakeRunner, tmp_path: Path, noted: bool
) -> None:
    make_runner(epochs=2).train()
    path = tmp_path / 'epoch_1.pth'
    if not noted:
        checkpoint = torch.load(path, weights_only=False)
        del checkpoint[KEY]
        torch.save(checkpoint, path)

    def other(config: dict[str, Any]) -> None:
        config['optim_wrapper']['optimizer'] = dict(type='Adam', lr=0.001)
        config.update(load_from=str(path), resume=True)

    runner = make_runner(other, epochs=2)
    with pytest.raises(PruningError, match=r'^optimizer=Adam'):
        runner.train()
    assert runner.iter == 0
