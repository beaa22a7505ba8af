# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""State of the random number generators, to go on where a run stopped."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmlapp.registry import HOOKS

from ..hook_list import check_before
from .state import check_version

RANDOM, VERSION = 'random_state', 1


def random_state() -> dict[str, Any]:
    """Returns the state of all generators of this process."""
    state = {
        'python': random.getstate(),
        'numpy': np.random.get_state(),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        # Of the current device alone, on which a process computes.
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts the generators where :func:`random_state` found them.

    Args:
        state (Mapping): What it returned. Generators of devices that are not
            there are left out.
    """
    # Python wants a tuple, which may come back from a file as a list.
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state['numpy'])
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Lets random numbers go on afterwards as if none had been drawn."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def write_states(
    checkpoint: dict[str, Any], states: list[dict[str, Any]]
) -> None:
    """Adds random states to a checkpoint that is about to be saved.

    Args:
        checkpoint (dict): The checkpoint.
        states (list[dict]): Of every process, see :func:`random_state`.
    """
    checkpoint[RANDOM] = dict(version=VERSION, processes=states)


def read_states(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reads what :func:`write_states` wrote.

    Args:
        checkpoint (Mapping): Any checkpoint.

    Returns:
        list[dict]: The state of every process; empty for a checkpoint that
        says nothing of them.

    Raises:
        PruningError: If they are of an unknown version.
    """
    found = checkpoint.get(RANDOM)
    if found is None:
        return []
    check_version(RANDOM, found, VERSION)
    return list(found['processes'])


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Lets a resumed run draw the random numbers of an unbroken one.

    Every checkpoint gets the state of the generators of every process. A run
    that resumes from it with as many processes goes on with them. Validation,
    which a resumed run does not repeat, leaves the numbers of the training
    alone. Works in any run by epochs; where MMEngine counts iterations, its
    new data loader draws a number of its own. A checkpoint from within an
    epoch, which MMEngine begins again, is warned of.
    :class:`PruningHook` adds it.

    Acts right before ``CheckpointHook``: after whatever draws numbers beside
    the training, and before they are saved.
    """

    # CheckpointHook is VERY_LOW, 90.
    priority = 89

    def __init__(self) -> None:
        self._noted: list[dict[str, Any]] = []
        self._loaded: list[dict[str, Any]] | None = None
        self._seed: int | None = None
        # Batches of the running epoch, here and before the checkpoint.
        self._done, self._repeated = 0, 0
        # Of the training, while there is a validation.
        self._aside: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Goes on with the numbers of the checkpoint, if there was one.

        Args:
            runner (Runner): The runner of the training process.

        Raises:
            PruningError: If a checkpoint hook acts earlier.
        """
        check_before(runner, self, CheckpointHook)
        states, self._loaded = self._loaded, None
        if states is None:
            return
        _warn_of_repeated(runner, self._repeated)
        loader = runner.train_dataloader
        # A loop of the user may have something else.
        if isinstance(loader, DataLoader) and self._seed is not None:
            _seed_loader(loader, self._seed, runner.seed)
        if len(states) == dist.get_world_size():
            set_random_state(states[dist.get_rank()])
            return
        runner.logger.info(
            'Random numbers begin anew: the checkpoint has those of '
            f'{len(states)} processes, this run has {dist.get_world_size()}'
        )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Collects the states, if a checkpoint of this iteration follows.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
            outputs (dict, optional): Losses. Defaults to None.
        """
        self._done = batch_idx + 1
        # All processes must be asked, but a checkpoint is saved by the first
        # one alone: they are asked before, and only where one follows.
        if dist.get_world_size() > 1 and _saves_now(runner):
            self._note(random_state())

    def after_train_epoch(self, runner: Runner) -> None:
        """Collects the states for the checkpoint of this epoch.

        Args:
            runner (Runner): The runner of the training process.
        """
        self._done = 0
        self._note(random_state())

    def before_val(self, runner: Runner) -> None:
        """Sets the numbers of the training aside.

        Args:
            runner (Runner): The runner.
        """
        self._aside = random_state()
        # For the best checkpoint, which is saved within the validation.
        self._note(self._aside)

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Brings the numbers back, before the best checkpoint is saved.

        Args:
            runner (Runner): The runner.
            metrics (dict, optional): Results. Defaults to None.
        """
        self._bring_back()

    def after_val(self, runner: Runner) -> None:
        """Brings the numbers back once more, after all other hooks.

        Args:
            runner (Runner): The runner.
        """
        self._bring_back()
        self._aside = None

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the states of all processes.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        # One process says where it stands now; those of several were noted.
        alone = dist.get_world_size() == 1
        write_states(checkpoint, [random_state()] if alone else self._noted)
        checkpoint[RANDOM]['batches'] = self._done

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Takes the states of a run that is resumed, for later.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        if getattr(runner, '_resume', False):
            self._loaded = read_states(checkpoint)
            self._repeated = checkpoint.get(RANDOM, {}).get('batches', 0)
            # That of this run, with which its data loader was built. MMEngine
            # takes the other one next.
            self._seed = runner.seed

    def _note(self, state: dict[str, Any]) -> None:
        """Collects states: the first process saves, without the others."""
        if dist.get_world_size() > 1:
            self._noted = dist.all_gather_object(state)

    def _bring_back(self) -> None:
        if self._aside is not None:
            set_random_state(self._aside)


def _warn_of_repeated(runner: Runner, batches: int) -> None:
    """Tells of an epoch that begins again, which MMEngine does silently.

    Args:
        runner (Runner): Of the run that goes on.
        batches (int): Of that epoch, when the checkpoint was saved.
    """
    if batches and isinstance(runner.train_loop, EpochBasedTrainLoop):
        runner.logger.warning(
            f'resume: the checkpoint was saved after {batches} batches of '
            f'epoch {runner.epoch + 1}, which begins again: the run is so '
            'many iterations longer than one that never stopped, and '
            'schedules by iteration reach their end before it does. '
            'CheckpointHook with by_epoch=True saves where a run goes on as '
            'it would have'
        )


def _seed_loader(loader: DataLoader, before: int, seed: int) -> None:
    """Gives a data loader the seed of the run that goes on.

    Without a fixed seed every start draws one, and builds its loader with it.

    Args:
        loader (DataLoader): Of the training.
        before (int): The seed that it was built with.
        seed (int): The one that the checkpoint tells.
    """
    for owner in (loader.sampler, getattr(loader.batch_sampler, 'sampler', 0)):
        if getattr(owner, 'seed', None) == before:
            owner.seed = seed
    starts = loader.worker_init_fn
    if isinstance(starts, partial) and starts.keywords.get('seed') == before:
        given = {**starts.keywords, 'seed': seed}
        loader.worker_init_fn = partial(starts.func, *starts.args, **given)
    if loader.persistent_workers:
        print_log(
            'The random numbers of the workers that load images begin anew: '
            'they go on from epoch to epoch (persistent_workers=True), and no '
            'checkpoint has them. With persistent_workers=False a resumed run '
            'is an unbroken one to the last digit',
            'current',
            logging.WARNING,
        )


def _saves_now(runner: Runner) -> bool:
    """Whether a checkpoint hook saves after this iteration."""
    return any(
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner))
        for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and not hook.by_epoch
    )
