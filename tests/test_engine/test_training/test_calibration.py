# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores that look at batches, in a run of MMEngine."""

import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from head_dropout import drop_inputs_of_head
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmlapp.core import Score, register_score
from mmlapp.core.score.weights import l2
from mmlapp.engine.training.calibration import prepare_score

MakeRunner = Callable[..., Runner]
ITERS = 4  # per epoch


@register_score('watchful_l2')
class WatchfulL2(Score):
    """The L2 norm; it runs the batches and draws, and uses neither.

    Attributes:
        seen (list[float]): Loss of each batch.
    """

    def __init__(self, batches: int = 3, refresh: int = 1) -> None:
        self.batches, self.refresh = batches, refresh
        self.seen: list[float] = []

    def prepare(self, model: nn.Module, layers: Any, batches: Any) -> None:
        for run in batches:
            loss = run()['loss']
            loss.backward()
            self.seen.append(loss.item())
            torch.rand(3), np.random.rand(3), random.random()

    def __call__(self, context: Any) -> Tensor:
        return l2(context)


class Watcher(Hook):
    """Drops some of the head's input, and notes the images of every forward.

    Attributes:
        images (dict): By whether all modules are in training mode, or none.
    """

    # Before PruningHook looks at batches.
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        self.images: dict[bool, list[Tensor]] = {True: [], False: []}
        runner.model.register_forward_pre_hook(self.note, with_kwargs=True)
        drop_inputs_of_head(runner)

    def note(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if kwargs.get('mode') == 'loss':
            (training,) = {module.training for module in model.modules()}
            self.images[training].append(kwargs['inputs'])


def watched(config: dict[str, Any]) -> None:
    config['custom_hooks'].append(dict(type=Watcher))
    config['train_dataloader']['dataset']['pipeline'] = [
        dict(type='RandomCrop', crop_size=8, padding=1),
        dict(type='PackInputs'),
    ]


def asking(config: dict[str, Any], **settings: int) -> None:
    watched(config)
    config['model']['score'] = dict(type='watchful_l2', **settings)


def images_of(runner: Runner, training: bool) -> list[Tensor]:
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, Watcher)]
    return hook.images[training]


def equal(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def assert_same_weights(a: Runner, b: Runner) -> None:
    expected, found = a.model.state_dict(), b.model.state_dict()
    assert list(found) == list(expected)
    assert equal(list(found.values()), list(expected.values()))


@pytest.mark.parametrize('narrow', [False, True])
def test_a_look_at_batches_changes_nothing_else(
    make_runner: MakeRunner, tmp_path: Path, narrow: bool
) -> None:
    """Bit for bit the run of a score with the same values and no data."""
    plain = make_runner(watched, work_dir=tmp_path / 'a', narrow=narrow)
    plain.train()
    asked = make_runner(asking, work_dir=tmp_path / 'b', narrow=narrow)
    asked.train()
    assert len(images_of(asked, training=False)) == 3
    assert_same_weights(plain, asked)
    assert equal(images_of(plain, True), images_of(asked, True))


def diverging(config: dict[str, Any]) -> None:
    config['model'].update(
        method=dict(type='ranking', steps=1),
        score='kl_divergence',
        normalisation='none',
        min_keep=0.3,
    )


def test_a_score_of_outputs_gets_logits(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And prunes; that of losses would be refused. It says how far it is."""
    # Every channel alone: it would be done at once.
    monkeypatch.setattr('mmlapp.core.score.divergence.ON_CPU', 1)
    runner, told = make_runner(diverging), []
    monkeypatch.setattr(runner.logger, 'info', told.append)
    runner.train()
    shares = [str(text) for text in told if 'of its work' in str(text)]
    assert shares == [
        f'The score is at {tenth}0 % of its work' for tenth in range(1, 11)
    ]
    pruner = runner.model.pruner
    assert pruner.ratios()['flops'] <= 0.5
    assert pruner.scores.unique().numel() > 10


def persistent(config: dict[str, Any]) -> None:
    config['train_dataloader'].update(num_workers=1, persistent_workers=True)


def endless(config: dict[str, Any]) -> None:
    sampler = dict(type='InfiniteSampler', shuffle=True)
    config['train_dataloader']['sampler'] = sampler
    config['train_cfg'] = dict(by_epoch=False, max_iters=12)
    # Saved by iterations, too.
    config['default_hooks']['checkpoint']['by_epoch'] = False


@pytest.mark.parametrize('loader', [persistent, endless])
def test_loaders_that_cannot_be_read_twice(
    make_runner: MakeRunner,
    tmp_path: Path,
    loader: Callable[[dict[str, Any]], None],
) -> None:
    def change(config: dict[str, Any]) -> None:
        asking(config)
        loader(config)

    def leave(config: dict[str, Any]) -> None:
        watched(config)
        loader(config)

    plain = make_runner(leave, work_dir=tmp_path / 'a')
    plain.train()
    asked = make_runner(change, work_dir=tmp_path / 'b')
    asked.train()
    assert len(images_of(asked, training=False)) == 3
    assert len(images_of(asked, training=True)) == 12
    assert equal(images_of(plain, True), images_of(asked, True))


def test_more_batches_than_there_are(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(lambda config: asking(config, batches=ITERS + 1))
    told: list[str] = []
    monkeypatch.setattr(runner.logger, 'warning', told.append)
    prepare_score(runner, runner.model.pruner)
    (text,) = told
    assert 'asks for 5 calibration batches' in text
    assert 'has 4' in text


def test_the_batches_are_those_of_the_training(
    make_runner: MakeRunner,
) -> None:
    """Normalised, in evaluation mode, as many as asked."""

    def change(config: dict[str, Any]) -> None:
        asking(config, batches=2)
        # What is drawn while images are read would tell them apart.
        del config['train_dataloader']['dataset']['pipeline'][0]

    runner = make_runner(change, epochs=2)
    runner.train()
    looked = images_of(runner, training=False)
    assert [image.shape for image in looked] == [(16, 3, 8, 8)] * 2
    assert equal(looked, images_of(runner, training=True)[:2])
    assert len(images_of(runner, training=True)) == 2 * ITERS
    losses = runner.model.pruner.scorer.score.seen
    # Of ten classes, before anything is learnt.
    assert losses == pytest.approx([math.log(10)] * 2, rel=0.5)


@pytest.mark.parametrize(
    ('epoch', 'refresh', 'count'), [(1, 1, 3), (1, 0, 0), (2, 1, 0)]
)
def test_a_resumed_run_equals_an_unbroken_one(
    make_runner: MakeRunner,
    tmp_path: Path,
    epoch: int,
    refresh: int,
    count: int,
) -> None:
    """It looks once more within the phase, if it scores again."""
    ask = partial(asking, refresh=refresh)
    whole = make_runner(ask, work_dir=tmp_path / 'a')
    whole.train()

    def resume(config: dict[str, Any]) -> None:
        ask(config)
        path = tmp_path / 'a' / f'epoch_{epoch}.pth'
        config.update(resume=True, load_from=str(path))

    again = make_runner(resume, work_dir=tmp_path / 'b')
    again.train()
    assert len(images_of(again, training=False)) == count
    assert_same_weights(whole, again)
    rest = images_of(whole, training=True)[epoch * ITERS :]
    assert equal(images_of(again, training=True), rest)


def test_random_numbers_go_on_after_an_error(make_runner: MakeRunner) -> None:
    runner = make_runner(asking)
    runner.train_loop.dataloader.dataset.pipeline.transforms[0] = draw_and_fail
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(OSError, match='no such image'):
        prepare_score(runner, runner.model.pruner)
    assert torch.equal(torch.rand(3), expected)
    assert not runner.model.pruner.scorer.prepared


def draw_and_fail(data: Any) -> Any:
    torch.rand(3)
    raise OSError('no such image')


def test_a_score_of_weights_alone_reads_nothing(
    make_runner: MakeRunner,
) -> None:
    nothing: Any = SimpleNamespace()
    prepare_score(nothing, make_runner().model.pruner)
