# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Kills a training run again and again; it must end as an unbroken one.

    python benchmarks/crash.py --kills 20

A small network on real digits is trained with averaged weights: some epochs
dense, some while it is pruned, the rest narrow. Every process gets SIGKILL
at a moment of its own, spread over the whole run: in the middle of a training
step, in the middle of writing a checkpoint, or between two steps of putting
it in its place. The next one goes on with ``resume='auto'``. Not a single bit
of the last weights, averages and moments may differ.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmlapp.engine.checkpoints.reading import load_checkpoint
from mmlapp.engine.launch import build_runner

PER_EPOCH = 4


def config(folder: Path, epochs: int) -> Config:
    """A fifth of the run dense, two fifths pruning, the rest narrow."""
    data = dict(
        batch_size=16,
        num_workers=0,
        dataset=dict(
            type='mmlapp.Digits',
            img_size=8,
            indices=16 * PER_EPOCH,
            pipeline=[dict(type='PackInputs')],
        ),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    return Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(folder),
            launcher='none',
            resume=True,
            randomness=dict(seed=0),
            log_level='ERROR',
            model=dict(
                type='mmlapp.PrunableModel',
                architecture='ImageClassifier',
                input_shape=(3, 8, 8),
                bypass=dict(type='depthwise'),
                backbone=dict(type='mmlapp.CIFARResNet', depth=8),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(
                    type='LinearClsHead', num_classes=10, in_channels=64
                ),
            ),
            data_preprocessor=dict(mean=[80.0] * 3, std=[90.0] * 3),
            train_dataloader=data,
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            val_dataloader=data,
            val_cfg=dict(),
            val_evaluator=dict(type='Accuracy'),
            optim_wrapper=dict(
                type='mmlapp.PruningOptimWrapper',
                optimizer=dict(type='AdamW', lr=0.002),
            ),
            param_scheduler=dict(type='CosineAnnealingLR', T_max=epochs),
            default_hooks=dict(
                checkpoint=dict(
                    type='CheckpointHook',
                    interval=1,
                    max_keep_ckpts=1,
                    save_best='auto',
                )
            ),
            custom_hooks=[
                dict(type='EMAHook', momentum=0.1),
                dict(
                    type='mmlapp.PruningHook',
                    target=dict(flops=0.6),
                    begin_iters=PER_EPOCH * (epochs // 5),
                    prune_epochs=2 * (epochs // 5),
                ),
            ],
        )
    )


@dataclass(frozen=True)
class Moment:
    """When a process dies.

    Args:
        kind (str): One of :data:`KINDS`.
        step (int): Iteration from which on it may die.
        delay (float): Part of a training step to wait.
    """

    kind: str
    step: int
    delay: float


def die() -> None:
    """What a cluster does to a job."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_step(moment: Moment) -> None:
    """Somewhere in this step, or in what follows it."""
    threading.Timer(0.15 * moment.delay, die).start()


def die_in_write(moment: Moment) -> None:
    """With a part of the next checkpoint on the disk."""

    def put(self: LocalBackend, data: bytes, path: str) -> None:
        Path(path).write_bytes(data[: int(moment.delay * len(data))])
        die()

    LocalBackend.put = put  # type: ignore[method-assign]


def die_at_rename(moment: Moment) -> None:
    """Before or after one of the next renames."""
    rename, left = os.replace, [random.Random(moment.delay).randrange(4)]

    def replace(source: Any, target: Any) -> None:
        before, left[0] = left[0] % 2, left[0] - 2
        if left[0] < 0 and before:
            die()
        rename(source, target)
        if left[0] < 0:
            die()

    os.replace = replace


KINDS: dict[str, Callable[[Moment], None]] = {
    'in a step': die_in_step,
    'while writing a checkpoint': die_in_write,
    'at a rename': die_at_rename,
}


class Killer(Hook):
    """Prepares the death of this process."""

    def __init__(self, moment: Moment) -> None:
        self.moment: Moment | None = moment

    def before_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        """Waits for the iteration of the moment."""
        if self.moment is not None and runner.iter >= self.moment.step:
            KINDS[self.moment.kind](self.moment)
            self.moment = None


def train(folder: Path, epochs: int, moment: Moment | None) -> int:
    """Trains in a process of its own; returns how that ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        torch.set_num_threads(1)
        with (folder.parent / 'output.txt').open('a') as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        runner = build_runner(config(folder, epochs))
        if moment is not None:
            runner.register_hook(Killer(moment), 'VERY_HIGH')
        runner.train()
        status = 0
    finally:
        os._exit(status)


def latest(folder: Path) -> dict[str, Any] | None:
    """Loads what a resumed run would go on from."""
    pointer = folder / 'last_checkpoint'
    if not pointer.exists():
        return None
    return load_checkpoint(pointer.read_text())


def differences(a: Any, b: Any, name: str = '') -> list[str]:
    """Names of the tensors in which two containers differ."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [name]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f'{name}: other keys']
        return [d for k in a for d in differences(a[k], b[k], f'{name}.{k}')]
    return []


def moments(kills: int, epochs: int, seed: int) -> list[Moment]:
    """One in every part of the run, all kinds in turn."""
    draw = random.Random(seed)
    width = epochs * PER_EPOCH / kills
    kinds = list(KINDS)
    return [
        Moment(
            kinds[i % len(kinds)],
            min(int((i + draw.random()) * width), epochs * PER_EPOCH - 1),
            draw.random(),
        )
        for i in range(kills)
    ]


def crash(folder: Path, kills: int, seed: int) -> bool:
    """Compares an unbroken run with one that is killed again and again."""
    epochs = max(5, kills)
    if train(folder / 'whole', epochs, None):
        raise SystemExit((folder / 'output.txt').read_text()[-3000:])
    survived = 0
    for number, moment in enumerate(moments(kills, epochs, seed), 1):
        status = train(folder / 'killed', epochs, moment)
        found = latest(folder / 'killed')
        where = 'none' if found is None else f'epoch {found["meta"]["epoch"]}'
        survived += status == -signal.SIGKILL
        print(
            f'{number:>3}: {moment.kind}, from iteration {moment.step} on: '
            f'exit status {status}; latest checkpoint: {where}',
            flush=True,
        )
    if train(folder / 'killed', epochs, None):
        raise SystemExit((folder / 'output.txt').read_text()[-3000:])
    whole, killed = (latest(folder / name) for name in ('whole', 'killed'))
    assert whole is not None
    assert killed is not None
    # The plan is one of the entries of the weights.
    keys = 'state_dict', 'ema_state_dict', 'optimizer'
    wrong = differences(*({k: d[k] for k in keys} for d in (whole, killed)))
    equal = not wrong
    print(
        f'{survived} of {kills} killed and resumed; last weights, averages '
        f'and moments {"equal" if equal else f"differ: {wrong[:3]}"}'
    )
    return equal and survived == kills


def main() -> None:
    """Exits with an error if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not crash(Path(folder), args.kills, args.seed))


if __name__ == '__main__':
    main()
