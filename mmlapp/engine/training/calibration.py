# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Calibration batches for scores that ask for data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from mmengine.runner import Runner
from torch import nn

from mmlapp.core import Pruner

from ..checkpoints.random_state import random_state, set_random_state
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
    state = random_state()
    try:
        model = unwrap(runner.model)
        count = pruner.scorer.score.batches
        pruner.prepare(model, _batches(runner, model, count))
    finally:
        set_random_state(state)


def _batches(
    runner: Runner, model: nn.Module, count: int
) -> Iterator[Callable[[], Any]]:
    """Functions that run the model on one batch each and return its losses."""
    for batch in islice(runner.train_dataloader, count):
        data: Any = model.data_preprocessor(batch, False)  # type: ignore
        yield lambda data=data: model(**data, mode='loss')
