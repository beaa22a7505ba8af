# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Resumed runs draw what an unbroken one would have drawn."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from head_dropout import drop_inputs_of_head
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from resumed_runs import resumed

from mmlapp.core import PruningError
from mmlapp.engine import RandomStateHook
from mmlapp.engine.checkpoints import random_state as module
from mmlapp.engine.checkpoints.random_state import (
    random_state,
    read_states,
    same_random_numbers,
    set_random_state,
    write_states,
)
from mmlapp.engine.checkpoints.reading import load_checkpoint

MakeRunner = Callable[..., Runner]
Change = Callable[[dict[str, Any]], None]


class Noise(Hook):
    """Draws numbers wherever a hook may."""

    def before_run(self, runner: Runner) -> None:
        drop_inputs_of_head(runner)

    def draw(self, runner: Runner, **kwargs: Any) -> None:
        torch.rand(3), np.random.rand(3), random.random()

    before_val_epoch = after_val_epoch = after_train_iter = draw
    after_train_epoch = before_train = draw


def draws() -> list[float]:
    return [torch.rand(()).item(), np.random.rand(), random.random()]


def test_numbers_go_on_as_if_none_had_been_drawn() -> None:
    state = random_state()
    expected = draws()
    set_random_state(state)
    with same_random_numbers():
        assert draws() == expected
    assert draws() == expected


def set_up(config: dict[str, Any]) -> None:
    config['custom_hooks'] = [
        dict(type='mmlapp.RandomStateHook'),
        dict(type=Noise),
    ]
    config['val_dataloader'] = copy.deepcopy(config['train_dataloader'])
    config.update(val_cfg={}, val_evaluator=dict(type='Accuracy'))


def save_best(config: dict[str, Any]) -> None:
    set_up(config)
    # The last checkpoint is then saved again, after the validation.
    config['default_hooks']['checkpoint'].update(save_best='auto')


def without_a_seed(config: dict[str, Any]) -> None:
    """Every start draws one."""
    set_up(config)
    config['randomness'] = dict(seed=None)


def workers(config: dict[str, Any]) -> None:
    """Which are started for every epoch, with the seed of the run."""
    without_a_seed(config)
    config['train_dataloader'].update(num_workers=1, persistent_workers=False)


def one_cycle(config: dict[str, Any]) -> None:
    """Its scheduler keeps a function in its state."""
    set_up(config)
    config['param_scheduler'] = dict(
        type='OneCycleLR', eta_max=0.1, total_steps=12, by_epoch=False
    )
    # As the tools do it in any run, and PruningHook in its own.
    config['default_hooks']['checkpoint']['type'] = 'mmlapp.SafeCheckpointHook'


def without_the_hook(config: dict[str, Any]) -> None:
    set_up(config)
    del config['custom_hooks'][0]


@pytest.mark.parametrize(
    ('setting', 'name', 'equal'),
    [
        (set_up, 'epoch_1', True),
        (set_up, 'epoch_2', True),
        (save_best, 'epoch_2', True),
        (without_a_seed, 'epoch_1', True),
        (one_cycle, 'epoch_1', True),
        (workers, 'epoch_1', True),
        (without_the_hook, 'epoch_1', False),
    ],
)
def test_a_plain_run_that_resumes_equals_an_unbroken_one(
    make_runner: MakeRunner,
    tmp_path: Path,
    setting: Change,
    name: str,
    equal: bool,
) -> None:
    whole = make_runner(setting, work_dir=tmp_path / 'a', plain=True)
    whole.train()
    # Without running code, as our tools read it.
    load_checkpoint(tmp_path / 'a' / f'{name}.pth')

    resume = resumed(setting, tmp_path / 'a' / f'{name}.pth')
    again = make_runner(resume, work_dir=tmp_path / 'b', plain=True)
    again.train()
    expected = whole.model.state_dict()
    found = [
        torch.equal(value, expected[key])
        for key, value in again.model.state_dict().items()
    ]
    assert all(found) == equal


def test_the_best_checkpoint_has_the_numbers_of_the_training(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    make_runner(save_best, plain=True, epochs=1).train()
    (best,) = tmp_path.glob('best_*.pth')
    states = [
        read_states(load_checkpoint(path))
        for path in (best, tmp_path / 'epoch_1.pth')
    ]
    numbers = []
    for (state,) in states:
        set_random_state(state)
        numbers.append(draws())
    assert numbers[0] == numbers[1]


def test_a_state_repeats_all_generators() -> None:
    state = random_state()
    first = draws()
    set_random_state(state)
    assert draws() == first


def test_states_are_written_and_read() -> None:
    checkpoint: dict[str, Any] = {}
    states = [random_state(), random_state()]
    write_states(checkpoint, states)
    assert read_states(checkpoint) == states
    assert read_states({}) == []
    checkpoint['random_state']['version'] = 2
    with pytest.raises(PruningError, match='random_state of version 2'):
        read_states(checkpoint)


def test_another_number_of_processes_begins_anew(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    make_runner(set_up, plain=True, work_dir=tmp_path / 'a').train()
    path = tmp_path / 'a' / 'epoch_1.pth'
    data = torch.load(path, weights_only=False)
    data['random_state']['processes'] *= 4
    torch.save(data, path)

    def resume(config: dict[str, Any]) -> None:
        set_up(config)
        config.update(resume=True, load_from=str(path), log_level='INFO')

    make_runner(resume, plain=True, work_dir=tmp_path / 'b').train()
    (log,) = (tmp_path / 'b').glob('*/*.log')
    assert 'those of 4 processes, this run has 1' in log.read_text()


@pytest.mark.parametrize(
    ('by_epoch', 'name', 'repeated'),
    [(False, 'iter_6', 2), (False, 'iter_4', 4), (True, 'epoch_1', 0)],
)
def test_an_epoch_that_begins_again_is_told(
    make_runner: MakeRunner,
    tmp_path: Path,
    by_epoch: bool,
    name: str,
    repeated: int,
) -> None:
    def save(config: dict[str, Any]) -> None:
        set_up(config)
        interval = 1 if by_epoch else 2
        config['default_hooks']['checkpoint'].update(
            by_epoch=by_epoch, interval=interval
        )
        config['log_level'] = 'WARNING'

    run = dict(plain=True, epochs=2)
    make_runner(save, work_dir=tmp_path / 'a', **run).train()
    again = make_runner(
        resumed(save, tmp_path / 'a' / f'{name}.pth'),
        work_dir=tmp_path / 'b',
        **run,
    )
    again.train()
    # Two epochs of four iterations.
    assert again.iter == 8 + repeated
    (log,) = (tmp_path / 'b').glob('*/*.log')
    found = f'after {repeated} batches of epoch' in log.read_text()
    assert found == (repeated > 0)
    # A checkpoint of the run that goes on counts anew.
    states = [load_checkpoint(path) for path in (tmp_path / 'b').glob('*.pth')]
    last = max(states, key=lambda state: state['meta']['iter'])
    assert last['random_state']['batches'] == (0 if by_epoch else 4)


def test_a_hook_after_the_checkpoint_hook_is_refused(
    make_runner: MakeRunner,
) -> None:
    def late(config: dict[str, Any]) -> None:
        set_up(config)
        config['custom_hooks'][0]['priority'] = 'LOWEST'

    with pytest.raises(PruningError, match='must act before CheckpointHook'):
        make_runner(late, plain=True).train()


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module,
        'dist',
        SimpleNamespace(
            get_world_size=lambda: 2, all_gather_object=lambda x: [x, 'other']
        ),
    )


@pytest.mark.parametrize(
    ('last', 'saves'), [(0, False), (2, False), (3, True), (8, True)]
)
def test_states_are_collected_only_where_a_checkpoint_follows(
    two_processes: None, last: int, saves: bool
) -> None:
    runner: Any = SimpleNamespace(
        iter=last,
        max_iters=9,
        train_loop=SimpleNamespace(max_iters=9),
        hooks=[CheckpointHook(interval=4, by_epoch=False)],
    )
    hook, checkpoint = RandomStateHook(), {}
    hook.after_train_iter(runner, last)
    hook.before_save_checkpoint(runner, checkpoint)
    assert bool(read_states(checkpoint)) == saves


def test_validation_collects_the_numbers_of_all_processes(
    two_processes: None,
) -> None:
    """Between two iterations that save, for the best checkpoint."""
    hook, checkpoint = RandomStateHook(), {}
    runner: Any = None
    hook.before_val(runner)
    expected = draws()
    hook.after_val_epoch(runner)
    hook.before_save_checkpoint(runner, checkpoint)
    mine, other = read_states(checkpoint)
    assert other == 'other'
    set_random_state(mine)
    assert draws() == expected
