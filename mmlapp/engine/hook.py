# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The hook that starts the pruning phase and reports on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmlapp.core import LAPP, PruningError
from mmlapp.core.constraint import check_target
from mmlapp.core.lapp import DENSE, FINISHED, PRUNING
from mmlapp.registry import HOOKS

from .optim_wrapper import LAPPOptimWrapper, _ThresholdStep, find_lapp


@HOOKS.register_module()
class LAPPHook(Hook):
    """Prunes the model during the first epochs of its training.

    Runs before the logger hook of the same iteration, so that what it
    reports is logged with it.

    Args:
        target_flops (float): Asked fraction of the dense FLOPs, in (0, 1].
            Defaults to 0.5.
        prune_epochs (float): Length of the pruning phase in epochs; in
            iteration-based training ``prune_iters`` says it. Defaults to 2.
        prune_iters (int, optional): Length of the phase in iterations,
            instead of ``prune_epochs``. Defaults to None.
        begin_iters (int): Iterations before the phase begins.
            Defaults to 0.
        interval (int): Iterations between two records of keep ratios and
            thresholds in the visualizer. Defaults to 50.

    Raises:
        PruningError: If an argument lies outside its range.
    """

    # Before LoggerHook (BELOW_NORMAL), which logs what is reported here.
    priority = 'NORMAL'

    def __init__(
        self,
        target_flops: float = 0.5,
        prune_epochs: float = 2,
        prune_iters: int | None = None,
        begin_iters: int = 0,
        interval: int = 50,
    ) -> None:
        self.target_flops = check_target(target_flops)
        self.prune_epochs, self.prune_iters = prune_epochs, prune_iters
        self.begin_iters, self.interval = begin_iters, interval
        for name, least in (
            ('prune_epochs', 0),
            ('prune_iters', 0),
            ('interval', 0),
            ('begin_iters', -1),
        ):
            value = getattr(self, name)
            if value is not None and value <= least:
                raise PruningError(
                    f'{name}={value}: expected more than {least}'
                )

    def before_train(self, runner: Runner) -> None:
        """Checks that the target and the phase fit the model and the run.

        Args:
            runner (Runner): The runner of the training process.
        """
        lapp = find_lapp(runner.model)
        if not isinstance(runner.optim_wrapper, _ThresholdStep):
            raise PruningError(
                f'optim_wrapper={type(runner.optim_wrapper).__name__} does '
                'not step the thresholds: use '
                f"type='mmlapp.{LAPPOptimWrapper.__name__}'"
            )
        iters = self._phase_iters(runner)
        last = self.begin_iters + iters
        if last > runner.max_iters:
            raise PruningError(
                f'the pruning phase ends at iteration {last}, but training '
                f'at {runner.max_iters}: shorten prune_epochs='
                f'{self.prune_epochs} or prune_iters={self.prune_iters}'
            )
        lapp.check_reachable(self.target_flops)
        runner.logger.info(
            f'LAPP: {len(lapp.groups)} channel groups, {lapp.total} channels; '
            f'{lapp.dense_flops:.4g} FLOPs to {self.target_flops:.1%} in '
            f'{iters} iterations from iteration {self.begin_iters}'
        )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Starts the phase.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
        """
        lapp = find_lapp(runner.model)
        if lapp.phase == DENSE and runner.iter >= self.begin_iters:
            every = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
            steps = max(self._phase_iters(runner) // every, 1)
            lapp.begin(self.target_flops, steps)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Reports FLOPs, and every ``interval`` all groups.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
            outputs (dict, optional): Losses. Defaults to None.
        """
        lapp = find_lapp(runner.model)
        _share_masks(runner, lapp)
        runner.message_hub.update_scalar('train/flops_ratio', lapp.ratio)
        ended = self._just_ended(runner, lapp)
        if ended or (
            lapp.phase == PRUNING
            and self.every_n_train_iters(runner, self.interval)
        ):
            runner.visualizer.add_scalars(_scalars(lapp), step=runner.iter + 1)
        if ended:
            _report(runner.logger, lapp)

    def after_train_epoch(self, runner: Runner) -> None:
        """Writes the groups' state to the log while the phase lasts.

        Args:
            runner (Runner): The runner of the training process.
        """
        lapp = find_lapp(runner.model)
        if lapp.phase == PRUNING:
            _report(runner.logger, lapp)

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Puts the plan into checkpoints of the finished phase.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        lapp = find_lapp(runner.model)
        if lapp.phase == FINISHED:
            checkpoint['lapp_plan'] = lapp.plan().to_dict()

    def _phase_iters(self, runner: Runner) -> int:
        if self.prune_iters is not None:
            return self.prune_iters
        return max(1, round(self.prune_epochs * len(runner.train_dataloader)))

    def _just_ended(self, runner: Runner, lapp: LAPP) -> bool:
        was, self._phase = getattr(self, '_phase', lapp.phase), lapp.phase
        return was == PRUNING and lapp.phase == FINISHED


def _share_masks(runner: Runner, lapp: LAPP) -> None:
    """Gives averaged copies of the model its masks as they are.

    With ``update_buffers`` their own would be averages of masks.
    """
    for hook in runner.hooks:
        averaged = getattr(hook, 'ema_model', None)
        if averaged is None:
            continue
        find_lapp(averaged.module).take_over(lapp)


def _scalars(lapp: LAPP) -> dict[str, float]:
    """Keep ratio and threshold of every group, by name."""
    keep = lapp.keep_ratios()
    thresholds = dict(zip(keep, lapp.threshold.tolist(), strict=True))
    return {
        'lapp/flops_ratio': lapp.ratio,
        'lapp/flops_target': lapp.target,
        **{f'lapp/keep/{name}': value for name, value in keep.items()},
        **{f'lapp/threshold/{n}': value for n, value in thresholds.items()},
    }


def _report(logger: MMLogger, lapp: LAPP) -> None:
    names: Sequence[str] = list(lapp.keep_ratios())
    width = max(map(len, names))
    rows = [
        f'{name:<{width}}  {keep:>6.1%}  {threshold:>9.4f}'
        for (name, keep), threshold in zip(
            lapp.keep_ratios().items(), lapp.threshold.tolist(), strict=True
        )
    ]
    state = 'finished' if lapp.phase == FINISHED else 'pruning'
    head = f'{"group":<{width}}  {"kept":>6}  {"threshold":>9}'
    logger.info(
        f'LAPP {state}: {lapp.ratio:.2%} of the dense FLOPs, target '
        f'{lapp.target:.2%}\n' + '\n'.join([head, *rows])
    )
