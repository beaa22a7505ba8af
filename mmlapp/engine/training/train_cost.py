# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a whole run costs, as a fraction of dense training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.runner import Runner

from mmlapp.core import Pruner, PruningError
from mmlapp.core.numbers import check_number
from mmlapp.core.progress import Phase

from .parts import unwrap
from .step_cost import COST, step_cost, teacher_of

DENSE = 'dense'
UNITS = 'epochs', 'iters'


@dataclass(frozen=True)
class TrainCost:
    """What a run may cost, as :class:`PruningHook` is told.

    Args:
        asked (float or str, optional): ``'dense'``, or a fraction of it.
        dense_length (Mapping[str, int], optional): Length of dense training,
            as ``epochs`` or ``iters``, which ``equal_cost`` notes.
        epoch_iters (int, optional): Iterations of an epoch, where the phase
            is counted in another unit than training. Defaults to None.

    Raises:
        PruningError: If an argument lies outside its range, or makes no sense
            without the first.
    """

    asked: float | str | None
    dense_length: Mapping[str, int] | None
    epoch_iters: int | None = None

    def __post_init__(self) -> None:
        if self.asked is not None:
            check_asked(self.asked)
        if self.epoch_iters is not None:
            check_number('epoch_iters', self.epoch_iters, least=1, whole=True)
            if self.asked is None:
                raise PruningError(
                    f'epoch_iters={self.epoch_iters} has no effect without '
                    'train_cost. Leave it out, or add train_cost'
                )
        if self.dense_length is not None:
            self._check_dense_length(self.dense_length)

    def _check_dense_length(self, length: Mapping[str, int]) -> None:
        known = isinstance(length, Mapping) and len(length) == 1
        said = f'dense_length={length!r}'
        if self.asked is None:
            raise PruningError(
                f'{said} without train_cost: mmlapp.engine.equal_cost notes '
                'it in a config whose training it has lengthened. Leave both '
                'out and take the lengths of dense training, or leave both in'
            )
        if not known or self.unit not in UNITS:
            raise PruningError(
                f'{said}: expected dict(epochs=...) or dict(iters=...)'
            )
        check_number('dense_length', self.dense, least=1, whole=True)

    @property
    def share(self) -> float:
        """What the run may cost, over dense training."""
        assert self.asked is not None
        return 1.0 if self.asked == DENSE else float(self.asked)

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        return next(iter(self.dense_length or {}), '')

    @property
    def dense(self) -> int:
        """Length of dense training, in that unit."""
        assert self.dense_length is not None
        return self.dense_length[self.unit]

    def check_settings(
        self, target: Mapping[str, float], narrow: bool
    ) -> None:
        """Refuses settings with which nothing is saved, or unknown how much.

        Args:
            target (Mapping[str, float]): Of the hook.
            narrow (bool): Of the hook.

        Raises:
            PruningError: With the setting and the remedy.
        """
        if self.asked is None:
            return
        if not narrow:
            raise PruningError(
                f'train_cost={self.asked!r} with narrow=False: a step costs '
                'what it did to the end of the run, and nothing is saved that '
                'could be spent. Leave train_cost out, or narrow=False'
            )
        if COST not in target:
            raise PruningError(
                f'train_cost={self.asked!r} with target={dict(target)}: only '
                'a target of flops says what a step costs after narrowing. '
                'Add one, such as flops=0.5, or leave train_cost out'
            )

    def check_applied(self) -> None:
        """Refuses a run whose config does not have the lengths yet.

        Raises:
            PruningError: With the remedy.
        """
        if self.asked is not None and self.dense_length is None:
            raise PruningError(
                f'train_cost={self.asked!r}, but training was not lengthened: '
                'a hook comes too late for that. Start with tools/train.py, '
                'or build the runner from mmlapp.engine.equal_cost(cfg)'
            )

    def check(
        self,
        runner: Runner,
        pruner: Pruner,
        target: Mapping[str, float],
        begin: int,
        end: int,
    ) -> None:
        """Writes to the log what a run costs, and refuses more than asked.

        Args:
            runner (Runner): The runner.
            pruner (Pruner): Of its model, still wide.
            target (Mapping[str, float]): Of the hook.
            begin (int): Iteration with which the phase begins.
            end (int): Iteration before which it is over.

        Raises:
            PruningError: With both costs.
        """
        if self.asked is None:
            return
        # A run that is resumed has passed this at its start.
        if pruner.phase == Phase.DENSE:
            self._check_epoch(runner)
        step = step_cost(unwrap(runner.model), pruner, target)
        teacher = teacher_of(runner.hooks, runner.cfg)
        step = step.with_teacher(teacher, begin)
        dense = self._dense_iters(runner)
        share = step.of_run(end, runner.max_iters) / dense
        runner.logger.info(
            f'Pruning: training lasts {self._length(runner)} {self.unit} '
            f'instead of {self.dense}, and the whole run costs at most '
            f'{100 * share:.2f} % of dense training'
            f'{" with its teacher" if teacher else ""} '
            f'(train_cost={self.asked!r})'
        )
        # Within a phase that is resumed elsewhere, epochs may have other
        # lengths.
        if pruner.phase == Phase.DENSE:
            self._check_share(share, dense)

    def _check_share(self, share: float, dense: float) -> None:
        """Refuses a run that costs more than asked, but for an iteration."""
        # A phase has one at the least, however short it was asked.
        if share > self.share + 1 / dense:
            raise PruningError(
                f'train_cost={self.asked!r}, but the run costs {share:.4g} of '
                f'dense training, of {self.dense} {self.unit}: its config was '
                'changed after mmlapp.engine.equal_cost, or it goes on from '
                'where its phase should have begun before. Take dense_length '
                'out of mmlapp.PruningHook and give all lengths as for dense '
                'training, or leave both train_cost and dense_length out'
            )

    def _check_epoch(self, runner: Runner) -> None:
        if self.epoch_iters is None:
            return
        iters = len(runner.train_dataloader)
        if iters != self.epoch_iters:
            raise PruningError(
                f'epoch_iters={self.epoch_iters}, but an epoch has {iters} '
                'iterations with this batch size and number of processes: '
                'set that in mmlapp.PruningHook'
            )

    def without_narrowing(self, runner: Runner) -> str:
        """Returns what the run costs if its network stays wide, in words.

        Args:
            runner (Runner): The runner.
        """
        if self.asked is None:
            return ''
        # Every step costs at least what a dense one does, and there are so
        # many times as many.
        times = runner.max_iters / self._dense_iters(runner)
        return (
            f'; the run, lengthened by train_cost={self.asked!r}, costs '
            f'{100 * times:.0f} % of dense training or more'
        )

    def _length(self, runner: Runner) -> int:
        return getattr(runner, f'max_{self.unit}')

    def _dense_iters(self, runner: Runner) -> float:
        # Iterations per epoch times dense epochs, or dense iterations times
        # one.
        return runner.max_iters / self._length(runner) * self.dense


def check_asked(asked: Any) -> None:
    """Refuses what is no cost of a run.

    Args:
        asked (Any): ``train_cost`` of the hook.

    Raises:
        PruningError: With the value.
    """
    if isinstance(asked, str) and asked != DENSE:
        raise PruningError(
            f"train_cost={asked!r}: expected 'dense', or a number above 0, "
            'the cost of the whole run as a fraction of dense training'
        )
    if asked != DENSE:
        check_number('train_cost', asked, above=0)
