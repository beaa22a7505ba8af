# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where training ends, also with other batches than the checkpoint's."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.runner import EpochBasedTrainLoop, Runner
from resumed_runs import resumed

from mmlapp.core import PruningError
from mmlapp.engine.run_end import end_of_training
from mmlapp.engine.training.parts import narrowed_plan

MakeRunner = Callable[..., Runner]


def standing(iters: int, epoch: int, epochs: int = 5) -> Any:
    """A runner with three batches an epoch."""
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop._max_epochs, loop.dataloader = epochs, range(3)  # type: ignore
    return SimpleNamespace(train_loop=loop, iter=iters, epoch=epoch)


@pytest.mark.parametrize(
    ('iters', 'epoch', 'end'),
    # 5 epochs of 3; of epochs that had 8 batches, or one, those that are left.
    [(0, 0, 15), (6, 2, 15), (16, 2, 25), (2, 2, 11), (40, 5, 40)],
)
def test_epochs_that_are_left_have_the_batches_of_now(
    iters: int, epoch: int, end: int
) -> None:
    assert end_of_training(standing(iters, epoch)) == end
    assert end_of_training(standing(0, 0), iters, epoch) == end


def test_other_loops_end_where_they_say() -> None:
    runner: Any = SimpleNamespace(train_loop=None, max_iters=7)
    assert end_of_training(runner) == 7
    assert end_of_training(runner, 40, 5) == 7


@pytest.fixture
def phase() -> Callable[[int], Callable[[dict[str, Any]], None]]:
    """Changes a config: a phase of ten iterations, and a batch size."""

    def change_to(batch: int) -> Callable[[dict[str, Any]], None]:
        def change(config: dict[str, Any]) -> None:
            hook = config['custom_hooks'][0]
            hook['prune_iters'] = 10
            del hook['prune_epochs']
            config['train_dataloader']['batch_size'] = batch
            config['log_level'] = 'WARNING'

        return change

    return change_to


def said(folder: Path) -> str:
    return ''.join(p.read_text('utf-8') for p in folder.rglob('*.log'))


def test_a_phase_fits_into_epochs_of_fewer_batches(
    make_runner: MakeRunner, tmp_path: Path, phase: Any
) -> None:
    """As on more processes: MMEngine counts 6 iterations, 10 are done."""
    make_runner(phase(16), work_dir=tmp_path / 'a').train()
    begun = tmp_path / 'a' / 'epoch_2.pth'  # 8 iterations
    folder = tmp_path / 'b'
    runner = make_runner(
        resumed(phase(32), begun), work_dir=folder, narrow=True
    )
    runner.train()
    assert (runner.max_iters, runner.iter) == (6, 10)
    assert narrowed_plan(runner).ratios()['flops'] <= 0.5
    assert 'nothing is left' not in said(folder)
    (notes,) = folder.rglob('pruning.jsonl')
    assert json.loads(notes.read_text().splitlines()[0])['max_iters'] == 10
    # In an epoch of one batch it does not fit: 8 and 1.
    with pytest.raises(PruningError, match=r'ends at iteration 10.* at 9'):
        make_runner(
            resumed(phase(64), begun), work_dir=tmp_path / 'c', narrow=True
        ).train()


def test_a_run_that_is_over_is_told(
    make_runner: MakeRunner, tmp_path: Path, phase: Any
) -> None:
    make_runner(phase(16), work_dir=tmp_path / 'a').train()
    done = tmp_path / 'a' / 'epoch_3.pth'
    # Epochs of twice as many batches: 24 iterations, and none is left.
    runner = make_runner(resumed(phase(8), done), work_dir=tmp_path / 'b')
    runner.train()
    assert (runner.max_iters, runner.iter) == (24, 12)
    assert 'is from epoch 3, iteration 12' in said(tmp_path / 'b')
    assert 'nothing is left to train' in said(tmp_path / 'b')
