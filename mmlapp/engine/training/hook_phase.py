# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the hook does while the model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner import Runner

from mmlapp.core import Pruner
from mmlapp.core.progress import Phase

from ..models.prunable import LOSS
from .averages import empty_removed, mask_averages
from .batch_shape import compare_shapes
from .best_scores import forget_entry, hold, start_anew
from .calibration import prepare_score
from .held_copies import tensors_of, warn_of_copies
from .hook_checkpoints import HookCheckpoints
from .parts import find_pruner, own_pruner, unwrap
from .report import (
    count_parameters,
    group_scalars,
    report_end,
    report_groups,
    report_narrowing,
)
from .run_settings import check_target
from .trial import find_obstacle
from .unfinished import warn_unfinished

LOGGED_LOSS = f'train/{LOSS}'


class HookPhase(HookCheckpoints):
    """The part of :class:`PruningHook` that begins, reports and ends a phase.

    Takes its arguments.
    """

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Starts the phase; looks at the size of the first images.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
        """
        if self.plan is not None:
            return
        pruner = find_pruner(runner.model)
        if not self._compared:
            self._compared = True
            compare_shapes(runner, pruner.input_shape, data_batch)
        if pruner.phase == Phase.DENSE and (
            runner.iter >= self.length.begin_iters
        ):
            # First: to begin is to rank, by a score that has seen its batches.
            prepare_score(runner, pruner)
            pruner.begin(
                self.target,
                self.length.steps(runner),
                self.length.end_rule(runner, self.end),
            )
            self._history.note(runner, pruner, runner.iter)
        check_target(pruner.progress, self.target)
        # The optimizer wrapper steps the pruner between both hooks of an
        # iteration: what the phase was before tells whether it ended in this
        # one.
        self._phase = pruner.phase

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Reports costs, and every ``interval`` all groups; narrows.

        Args:
            runner (Runner): The runner of the training process.
            batch_idx (int): Index of the batch in the loop.
            data_batch (Any): The batch. Defaults to None.
            outputs (dict, optional): Losses. Defaults to None.
        """
        if self.plan is None:
            self._after_masked_iter(runner, find_pruner(runner.model))
            return
        self._report_ratios(runner, self.plan.ratios())
        self._step_time.after_step(runner)

    def _report_ratios(
        self, runner: Runner, ratios: Mapping[str, float]
    ) -> None:
        """Logs what is left of every cost that has a target."""
        for name in self.target:
            key = f'train/{name}_ratio'
            runner.message_hub.update_scalar(key, ratios[name])

    def _after_masked_iter(self, runner: Runner, pruner: Pruner) -> None:
        # First: whatever comes next may evaluate or narrow the averages.
        mask_averages(runner, pruner)
        self._report_ratios(runner, pruner.ratios(list(self.target)))
        ended = self._phase == Phase.PRUNING and pruner.phase == Phase.FINISHED
        if ended or pruner.phase == Phase.PRUNING:
            # The iteration is counted after its hooks.
            self._history.note(runner, pruner, runner.iter + 1)
        if ended or (
            pruner.phase == Phase.PRUNING
            and self.every_n_train_iters(runner, self.interval)
        ):
            runner.visualizer.add_scalars(
                group_scalars(pruner), step=runner.iter + 1
            )
        if ended:
            # Told while there are masks: narrowing takes the pruner off. Best
            # scores last, since who is told of it may look at the new network.
            report_end(runner.logger, pruner)
            report_groups(runner.logger, pruner)
            forget_entry(runner.message_hub, LOGGED_LOSS)
            self._end(runner, pruner)
            start_anew(runner)

    def _end(self, runner: Runner, pruner: Pruner) -> None:
        """Narrows, if that was asked for and can be done."""
        if not self.narrow or not self._becomes_narrow(runner, pruner):
            empty_removed(runner, pruner)

    def _becomes_narrow(self, runner: Runner, pruner: Pruner) -> bool:
        """Narrows, or says why that cannot be done."""
        plan, model = pruner.plan(), unwrap(runner.model)
        obstacle = find_obstacle(runner, plan, pruner.input_shape)
        if obstacle is not None:
            runner.logger.warning(
                f'Pruning: the model is not narrowed; masks stay: {obstacle}'
                f'{self.cost.without_narrowing(runner)}'
            )
            # A runner that trains once more does not try again.
            self.narrow = False
            return False
        # Of this narrowing leaves nothing.
        before, tensors = count_parameters(model), tensors_of(model)
        self._step_time.narrowed(runner)
        self._narrow(runner, plan)
        report_narrowing(runner.logger, plan, before, count_parameters(model))
        warn_of_copies(runner, tensors)
        return True

    def after_train_epoch(self, runner: Runner) -> None:
        """Writes the groups' state to the log while the phase lasts.

        Args:
            runner (Runner): The runner of the training process.
        """
        if self.plan is None:
            pruner = find_pruner(runner.model)
            if pruner.phase == Phase.PRUNING:
                report_groups(runner.logger, pruner)

    def before_val(self, runner: Runner) -> None:
        """Keeps what waits for better scores from acting in the phase.

        Args:
            runner (Runner): The runner of the training process.
        """
        pruner = own_pruner(runner.model)
        if pruner is not None:
            hold(runner, pruner.phase)

    def after_train(self, runner: Runner) -> None:
        """Says so if training ended before the phase did.

        Args:
            runner (Runner): The runner of the training process.
        """
        self._history.close(runner)
        if self.plan is None:
            warn_unfinished(runner, find_pruner(runner.model))
