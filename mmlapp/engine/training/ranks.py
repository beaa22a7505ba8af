# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether all processes of a distributed run prune alike."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmlapp.core import LAPP, PruningError
from mmlapp.core.pruner_state import FINISHED, PRUNING
from mmlapp.registry import HOOKS

from .parts import find_lapp, narrowed_plan


@HOOKS.register_module()
class RankCheckHook(Hook):
    """Compares what the processes of a distributed run prune.

    Every ``interval`` iterations of the pruning phase and at its end, before
    the model is narrowed. :class:`PruningHook` adds it with its own interval;
    a config names it to compare more often or less.

    Args:
        interval (int): Iterations between two comparisons. Defaults to 50.

    Raises:
        PruningError: If the interval is below 1.
    """

    # PruningHook, which narrows, is ABOVE_NORMAL, 40.
    priority = 39

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise PruningError(f'interval={interval}: expected more than 0')
        self.interval = interval
        self._finished = True

    def before_train(self, runner: Runner) -> None:
        """Refuses a model that has nothing to compare.

        Args:
            runner (Runner): The runner of the training process.
        """
        if narrowed_plan(runner) is None:
            find_lapp(runner.model)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Notes whether the phase is over already.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
        """
        narrowed = narrowed_plan(runner) is not None
        self._finished = narrowed or find_lapp(runner.model).phase == FINISHED

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Compares, if it is time to.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
            outputs (dict, optional): Losses. Defaults to None.

        Raises:
            PruningError: With the first layer that differs.
        """
        if self._finished:
            return
        lapp = find_lapp(runner.model)
        due = self.every_n_train_iters(runner, self.interval)
        if lapp.phase == FINISHED or (lapp.phase == PRUNING and due):
            check_ranks(lapp)


def checksums(lapp: LAPP) -> Tensor:
    """Returns a row per group: threshold, mask, scores; and one for the rest.

    Args:
        lapp (LAPP): Thresholds and masks of this process.

    Returns:
        Tensor: Shape ``[groups + 1, 3]``, int64, on the device of the masks.
    """
    mask = lapp.mask[:-1].cpu()
    sizes = [group.size for group in lapp.groups]
    rows = [
        [_checksum(threshold), _checksum(kept), _checksum(scores)]
        for threshold, kept, scores in zip(
            lapp.threshold.detach().cpu(),
            mask.split(sizes),
            lapp.scores.cpu().split(sizes),
            strict=True,
        )
    ]
    rest = [_checksum(lapp.progress), _checksum(lapp.state.cpu()), 0]
    return torch.tensor([*rows, rest], device=lapp.mask.device)


def _checksum(values: Tensor) -> int:
    return zlib.crc32(values.contiguous().numpy().tobytes())


def check_ranks(lapp: LAPP) -> None:
    """Compares thresholds, masks and scores of all processes.

    All of them must call it; every one raises if any differs.

    Args:
        lapp (LAPP): Thresholds and masks of this process.

    Raises:
        PruningError: With the first layer that differs.
    """
    if dist.get_world_size() == 1:
        return
    everyone = dist.all_gather(checksums(lapp))
    names = [group.name for group in lapp.groups]
    for rank, theirs in enumerate(everyone):
        differs = (theirs != everyone[0]).nonzero()
        if not len(differs):
            continue
        row, column = differs[0].tolist()
        if row < len(names):
            what = ('threshold', 'mask', 'scores')[column]
            where = f'the {what} of {names[row]}'
        else:
            where = ('the schedule', 'the controller')[column]
        raise PruningError(
            f'rank {rank} differs from rank 0 in {where}: the processes no '
            'longer train the same model. Resume from the last checkpoint; '
            'if it happens again, look for weights that are changed on one '
            'rank alone, such as by a hook or by unequal random numbers'
        )
