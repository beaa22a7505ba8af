# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Calibration batches for scores that ask for data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from logging import Logger
from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmlapp.core import Pruner

from ..checkpoints.random_state import same_random_numbers
from .parts import unwrap


def prepare_score(runner: Runner, pruner: Pruner) -> None:
    """Shows a score the training batches that it asks for, once.

    Random numbers go on afterwards as if nothing had been read. Processes
    see batches of their own; the pruner averages what they score.

    Args:
        runner (Runner): The runner of the training process.
        pruner (Pruner): Of its model.
    """
    if pruner.scorer.prepared:
        return
    with same_random_numbers():
        model = unwrap(runner.model)
        score = pruner.scorer.score
        mode = 'tensor' if score.outputs else 'loss'
        score.report = Tenths(runner.logger)  # type: ignore[method-assign]
        try:
            pruner.prepare(model, _batches(runner, model, score.batches, mode))
        finally:
            # Of the run, and no part of a copy of the model.
            del score.report


class Tenths:
    """Logs how far a score is, at every tenth of its work.

    Args:
        logger (logging.Logger): Where to.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger, self.logged = logger, 0

    def __call__(self, done: float) -> None:
        """Takes a share of the work, in [0, 1]."""
        # 0.7 * 10 is a little less than 7 in floating point, at times.
        tenths = int(done * 10 + 1e-9)
        if tenths > self.logged:
            self.logged = tenths
            self.logger.info(f'The score is at {tenths}0 % of its work')


def _batches(
    runner: Runner, model: nn.Module, count: int, mode: str
) -> Iterator[Callable[[], Any]]:
    """Functions that run the model in a mode, on one batch each."""
    loader: Any = runner.train_dataloader
    if len(loader) < count:
        runner.logger.warning(
            f'The score asks for {count} calibration batches; an epoch of '
            f'train_dataloader has {len(loader)}, which it gets'
        )
    return calibration_batches(loader, model, count, mode, runner.seed)


def calibration_batches(
    loader: Any, model: nn.Module, count: int, mode: str, seed: int | None
) -> Iterator[Callable[[], Any]]:
    """Functions that run a model on one batch of training data each.

    The data come in batches of equal size, read in this process. The loader
    of the training cannot be read twice: persistent workers would start
    anew, and a sampler without an end would be at its end.

    Args:
        loader (DataLoader): That of the training, which is not read.
        model (nn.Module): A model of OpenMMLab.
        count (int): How many, of an epoch at most.
        mode (str): What the model is to return: ``loss`` or ``tensor``.
        seed (int, optional): Of the order of the data.
    """
    own = DataLoader(
        loader.dataset,
        # A loader with a batch sampler of its own says no size.
        loader.batch_size or loader.batch_sampler.batch_size,
        # Every process gets another part of the data.
        sampler=DefaultSampler(loader.dataset, seed=seed),
        collate_fn=loader.collate_fn,
    )
    for batch in islice(own, count):
        data: Any = model.data_preprocessor(batch, False)  # type: ignore
        # Bound now: by the time it is called, the name may hold the next
        # batch.
        yield lambda data=data: model(**data, mode=mode)
