# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether all processes of a distributed run prune alike."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmlapp.core import Pruner, PruningError
from mmlapp.core.numbers import check_number
from mmlapp.core.progress import Phase
from mmlapp.registry import HOOKS

from .parts import find_pruner, narrowed_plan


@HOOKS.register_module()
class RankCheckHook(Hook):
    """Compares what the processes of a distributed run prune.

    Every ``interval`` iterations of the pruning phase and at its end, before
    the model is narrowed. :class:`PruningHook` adds it with its own interval;
    a config names it to compare more often or less.

    Args:
        interval (int): Iterations between two comparisons. Defaults to 50.

    Raises:
        PruningError: If the interval is no whole number from 1 on.
    """

    # PruningHook, which narrows, is ABOVE_NORMAL, 40.
    priority = 39

    def __init__(self, interval: int = 50) -> None:
        self.interval = check_number('interval', interval, least=1, whole=True)
        self._finished = True

    def before_train(self, runner: Runner) -> None:
        """Refuses a model that has nothing to compare.

        Args:
            runner (Runner): The runner of the training process.
        """
        if narrowed_plan(runner) is None:
            find_pruner(runner.model)

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
        self._finished = (
            narrowed or find_pruner(runner.model).phase == Phase.FINISHED
        )

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
        pruner = find_pruner(runner.model)
        due = self.every_n_train_iters(runner, self.interval)
        if pruner.phase == Phase.FINISHED or (
            pruner.phase == Phase.PRUNING and due
        ):
            check_ranks(pruner)


def checksums(pruner: Pruner) -> tuple[list[str], Tensor]:
    """Returns a checksum of everything that decides, group by group.

    Args:
        pruner (Pruner): Of this process, with its method.

    Returns:
        tuple[list[str], Tensor]: Names of what the columns are, and a row
        for each group and one for what belongs to no single group; int64
        ``[groups + 1, columns]``, on the device of the gate.
    """
    state = {
        name.rpartition('.')[2]: value.detach().cpu()
        for name, value in pruner.state_dict().items()
    }
    groups = len(pruner.groups)
    # Equal bits, equal sums: a few numbers to exchange, not all weights.
    table = torch.zeros(groups + 1, len(state), dtype=torch.int64)
    for column, value in enumerate(state.values()):
        for row, part in _parts(value, pruner.sizes):
            table[row, column] = zlib.crc32(part.numpy().tobytes())
    return list(state), table.to(pruner.gate.device)


def _parts(value: Tensor, sizes: list[int]) -> Iterator[tuple[int, Tensor]]:
    """Parts of a tensor by row: one per channel, one per group, or whole."""
    # [channels] is cut into groups, [groups] into numbers; what has another
    # length belongs to all, the last row.
    length = len(value) if value.dim() else 0
    if length == sum(sizes):
        yield from enumerate(value.split(sizes))
    elif length == len(sizes):
        yield from enumerate(value)
    else:
        yield len(sizes), value


def check_ranks(pruner: Pruner) -> None:
    """Compares gate, scores and the state of the method of all processes.

    All of them must call it; every one raises if any differs.

    Args:
        pruner (Pruner): Of this process.

    Raises:
        PruningError: With the first layer that differs.
    """
    if dist.get_world_size() == 1:
        return
    columns, table = checksums(pruner)
    # Of one shape on all processes, which built the same groups and method.
    everyone = dist.all_gather(table)
    names = [group.name for group in pruner.groups]
    for rank, theirs in enumerate(everyone):
        # [groups + 1, columns] -> [differing, 2], the first row first.
        differs = (theirs != everyone[0]).nonzero()
        if not len(differs):
            continue
        row, column = differs[0].tolist()
        where = f' of {names[row]}' if row < len(names) else ''
        raise PruningError(
            f'rank {rank} differs from rank 0 in the {columns[column]}'
            f'{where}: the processes no longer train the same model. Resume '
            'from the last checkpoint; if it happens again, look for weights '
            'that are changed on one rank alone, such as by a hook or by '
            'unequal random numbers'
        )
