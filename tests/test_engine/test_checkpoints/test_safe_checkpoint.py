# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are there as a whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.core.files import temporary_path
from mmlapp.engine import SafeCheckpointHook
from mmlapp.engine.checkpoints.safe_checkpoint import save_safely

MakeRunner = Callable[..., Runner]


def keep_one(config: dict[str, Any]) -> None:
    config['default_hooks']['checkpoint'].update(max_keep_ckpts=1)


def files(folder: Path) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in ('.pth', '.tmp') or path.name == 'last_checkpoint'
    )


def test_a_full_disk_leaves_the_checkpoint_before(
    make_runner: MakeRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = LocalBackend.put

    def put(self: LocalBackend, data: bytes, path: str) -> None:
        if 'epoch_2' not in str(path):
            return write(self, data, path)
        Path(path).write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(LocalBackend, 'put', put)
    runner = make_runner(keep_one, narrow=True)
    text = r"epoch_2\.pth' could not be written .*No space left"
    with pytest.raises(PruningError, match=text):
        runner.train()
    assert files(tmp_path) == ['epoch_1.pth', 'last_checkpoint']
    pointer = Path((tmp_path / 'last_checkpoint').read_text())
    assert pointer == tmp_path / 'epoch_1.pth'
    assert torch.load(pointer, weights_only=False)['meta']['epoch'] == 1
    monkeypatch.undo()

    def resume(config: dict[str, Any]) -> None:
        keep_one(config)
        config['resume'] = True

    again = make_runner(resume, narrow=True)
    again.train()
    assert again.epoch == 3
    assert files(tmp_path) == ['epoch_3.pth', 'last_checkpoint']


class Poison(Hook):
    """Spoils a tensor of the narrow model."""

    def __init__(self, name: str) -> None:
        self.name = name

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        if runner.iter == 10:
            value = runner.model.state_dict()[self.name]
            value[3] = float('nan')


@pytest.mark.parametrize(
    'name', ['head.fc.weight', 'backbone.layer3.0.bn2.running_var']
)
def test_a_diverged_model_is_not_saved(
    make_runner: MakeRunner, tmp_path: Path, name: str
) -> None:
    runner = make_runner(narrow=True)
    runner.register_hook(Poison(name))
    with pytest.raises(PruningError, match='is not finite: training'):
        runner.train()
    assert files(tmp_path) == ['epoch_1.pth', 'epoch_2.pth', 'last_checkpoint']


class OwnHook(CheckpointHook):
    """What a user wrote."""


def test_hooks_of_the_user_stay_as_they_are(make_runner: MakeRunner) -> None:
    runner = make_runner()
    own = OwnHook()
    runner.register_hook(own)
    save_safely(runner)
    kinds = [type(h) for h in runner.hooks if isinstance(h, CheckpointHook)]
    assert kinds == [SafeCheckpointHook, OwnHook]
    assert runner.hooks[-1] is own


def test_settings_and_priority_are_taken_over(
    make_runner: MakeRunner,
) -> None:
    settings = dict(
        interval=3,
        max_keep_ckpts=2,
        save_best=['acc', 'loss'],
        rule=['less', 'greater'],
        filename_tmpl='at_{}.pth',
        save_begin=1,
        save_optimizer=False,
    )

    def change(config: dict[str, Any]) -> None:
        config['default_hooks']['checkpoint'].update(settings, priority='LOW')

    runner = make_runner(change)
    (old,) = [h for h in runner.hooks if isinstance(h, CheckpointHook)]
    kept, place = dict(vars(old)), runner.hooks.index(old)
    save_safely(runner)
    new = runner.hooks[place]
    assert type(new) is SafeCheckpointHook
    assert vars(new) == kept
    assert new.priority == 'LOW'
    assert new.rules == ['less', 'greater']
    assert type(old) is CheckpointHook
    assert vars(old) == kept


def test_it_serves_a_run_that_does_not_prune(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    def safe(config: dict[str, Any]) -> None:
        config['default_hooks']['checkpoint'].update(
            type='mmlapp.SafeCheckpointHook', max_keep_ckpts=1
        )

    alive = temporary_path(tmp_path / 'epoch_1.pth')
    # Of a process that cannot be: numbers are smaller.
    dead = alive.name.replace(f'-{os.getpid()}-', f'-{2**30}-')
    (tmp_path / dead).write_bytes(b'left by a crash')
    alive.write_bytes(b'another run is writing this')
    make_runner(safe, plain=True).train()
    expected = [alive.name, 'epoch_3.pth', 'last_checkpoint']
    assert files(tmp_path) == expected
