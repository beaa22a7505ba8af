# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""State of the random number generators, to go on where a run stopped."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner


def random_state() -> dict[str, Any]:
    """Returns the state of all generators of this process."""
    state = {
        'python': random.getstate(),
        'numpy': np.random.get_state(),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts the generators where :func:`random_state` found them.

    Args:
        state (Mapping): What it returned. Generators of devices that are not
            there are left out.
    """
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


class RandomNumbers:
    """Random numbers of a run that may stop and go on elsewhere."""

    def __init__(self) -> None:
        self._noted: list[dict[str, Any]] = []
        self._loaded: list[dict[str, Any]] = []
        self._aside: dict[str, Any] | None = None

    def note(self, runner: Runner, by_epoch: bool) -> None:
        """Collects the states of all processes, if a checkpoint follows.

        MMEngine saves on the first process alone, where nothing can be
        collected any more.

        Args:
            runner (Runner): The runner of the training process.
            by_epoch (bool): Whether an epoch has ended, or an iteration.
        """
        if dist.get_world_size() > 1 and _saves_now(runner, by_epoch):
            self._noted = dist.all_gather_object(random_state())

    def to_save(self) -> list[dict[str, Any]]:
        """Returns the state of every process."""
        return self._noted if dist.get_world_size() > 1 else [random_state()]

    def loaded(self, states: list[dict[str, Any]]) -> None:
        """Takes what a checkpoint holds, for later.

        Args:
            states (list[dict]): See :meth:`to_save`.
        """
        self._loaded = states

    def restore(self, runner: Runner) -> None:
        """Goes on with the numbers of the checkpoint, if there was one.

        Args:
            runner (Runner): The runner of the training process.
        """
        states, self._loaded = self._loaded, []
        if len(states) == dist.get_world_size():
            set_random_state(states[dist.get_rank()])
        elif states:
            runner.logger.info(
                'Pruning: random numbers begin anew: the checkpoint is of '
                f'{len(states)} processes, this run of '
                f'{dist.get_world_size()}'
            )

    def set_aside(self) -> None:
        """Notes where the numbers are."""
        self._aside = random_state()

    def bring_back(self) -> None:
        """Puts the numbers where :meth:`set_aside` was called."""
        if self._aside is not None:
            set_random_state(self._aside)
            self._aside = None


def _saves_now(runner: Runner, by_epoch: bool) -> bool:
    """Whether a checkpoint hook saves after this epoch or iteration."""
    if by_epoch:
        return True
    return any(
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner))
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and not hook.by_epoch
    )
