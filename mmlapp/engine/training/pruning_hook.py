# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The hook that starts and ends the pruning phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmlapp.core import ChannelPlan, Pruner
from mmlapp.core.methods.schedule import check_targets
from mmlapp.core.numbers import check_flag, check_number
from mmlapp.core.progress import Phase
from mmlapp.registry import HOOKS

from ..checkpoints.checked_loading import check_loading
from ..checkpoints.random_state import RandomStateHook
from ..checkpoints.safe_checkpoint import save_safely
from ..hook_list import (
    check_before,
    check_single,
    has_hook,
    insert_before,
)
from ..models.plans import missing_plans, plans_in
from ..models.prunable import LOSS
from .averages import check_averages, mask_averages
from .batch_shape import compare_shapes
from .best_scores import forget_entry, hold, start_anew, warn_of_others
from .calibration import prepare_score
from .compiled import leave_uncompiled
from .limits import check_run, check_saved, check_wrapper, infinite_buffers
from .narrowing import narrow_run
from .optim_wrapper import _PrunerStep, attend
from .parts import find_pruner, unwrap
from .phase_length import PhaseLength
from .ranks import RankCheckHook
from .report import (
    StepTime,
    channels_text,
    count_parameters,
    group_scalars,
    ratios_text,
    report_groups,
    report_narrowing,
)
from .run_settings import (
    RunSettings,
    check_dense,
    check_finished,
    check_places,
    check_resumed,
    plan_target,
)
from .trial import find_obstacle
from .unfinished import (
    forget_phase,
    loaded_phase,
    start_afresh,
    takes_weights_alone,
    warn_unfinished,
)

TARGET = {'flops': 0.5}
LOGGED_LOSS = f'train/{LOSS}'


@HOOKS.register_module()
class PruningHook(Hook):
    """Prunes the model during the first epochs of its training.

    When the phase ends the model is narrowed in place, with its averaged
    copies and the optimizer's state, and training goes on with the small
    one. A checkpoint of a narrow model makes the model narrow before its
    weights are loaded.

    Runs before ``EMAHook``, which must find a model of the right shape, and
    before the logger hook of the same iteration, so that what it reports is
    logged with it. Adds :class:`RankCheckHook`, :class:`RandomStateHook` and
    :class:`SafeCheckpointHook` to the run where the config has none.

    Args:
        target (Mapping[str, float]): Asked fraction of the dense network, in
            (0, 1], by name of the cost: ``flops``, ``parameters`` or what
            ``costs`` of ``PrunableModel`` has. Several hold together.
            Defaults to half of the FLOPs.
        prune_epochs (float): Length of the pruning phase in epochs; in
            iteration-based training ``prune_iters`` says it. Defaults to 2.
        prune_iters (int, optional): Length of the phase in iterations,
            instead of ``prune_epochs``. Defaults to None.
        begin_iters (int): Iterations before the phase begins.
            Defaults to 0.
        interval (int): Iterations between two records of keep ratios and
            the method in the visualizer, and between two comparisons of the
            processes of a distributed run. Defaults to 50.
        narrow (bool): Whether to narrow the model when the phase ends. If
            not, masks stay to the end of the run. Defaults to True.

    Attributes:
        plan (ChannelPlan, optional): What the model of the run was narrowed
            to; None as long as it is wide.

    Raises:
        PruningError: If an argument lies outside its range.
    """

    # Before EMAHook (NORMAL, in some configs 49) and LoggerHook.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        target: Mapping[str, float] = TARGET,
        prune_epochs: float = 2,
        prune_iters: int | None = None,
        begin_iters: int = 0,
        interval: int = 50,
        narrow: bool = True,
    ) -> None:
        self.target = check_targets(target)
        self.length = PhaseLength(prune_epochs, prune_iters, begin_iters)
        self.interval = check_number('interval', interval, least=1, whole=True)
        self.narrow = check_flag('narrow', narrow)
        self._infinite: frozenset[str] = frozenset()
        self.plan: ChannelPlan | None = None
        self._phase: int | None = None
        self._compared = False
        self._loaded: RunSettings | None = None
        self._step_time = StepTime(interval)

    def before_run(self, runner: Runner) -> None:
        """Refuses what cannot work and adds the hooks that go with it.

        Args:
            runner (Runner): The runner of the training process.
        """
        check_single(runner, PruningHook)
        check_run(runner, self.narrow)
        check_loading(runner)
        attend(runner)
        self._add_hooks(runner)

    def _add_hooks(self, runner: Runner) -> list[Hook]:
        """Registers what the user did not; returns the new ones."""
        save_safely(runner)
        added: list[Hook] = []
        companions: list[tuple[Hook, type[Hook]]] = [
            (RankCheckHook(self.interval), PruningHook),
            (RandomStateHook(), CheckpointHook),
        ]
        for hook, later in companions:
            if not has_hook(runner, type(hook)):
                insert_before(runner, hook, later)
                added.append(hook)
        return added

    def before_train(self, runner: Runner) -> None:
        """Checks that the target and the phase fit the model and the run.

        Args:
            runner (Runner): The runner of the training process.
        """
        for hook in runner.hooks:
            if isinstance(hook, RankCheckHook):
                check_before(runner, hook, PruningHook)
        self._infinite = infinite_buffers(unwrap(runner.model))
        if self.plan is not None:
            forget_entry(runner.message_hub, LOGGED_LOSS)
            check_finished(plan_target(self.plan), self.target)
            runner.logger.info(
                'Pruning: the model is narrow already, '
                f'{ratios_text(self.plan.ratios())}, '
                f'{channels_text(self.plan)}; there is no phase'
            )
            return
        pruner = find_pruner(runner.model)
        if runner.cfg.get('compile'):
            leave_uncompiled(pruner)
        start_afresh(runner, pruner)
        if pruner.phase == Phase.FINISHED:
            self._go_on(runner, pruner)
        else:
            self._check(runner, pruner)
        if pruner.phase == Phase.PRUNING:  # resumed
            prepare_score(runner, pruner)
        self._loaded = None

    def _settings(self, pruner: Pruner) -> RunSettings:
        return RunSettings.of(
            pruner, {'target': self.target, **asdict(self.length)}
        )

    def _go_on(self, runner: Runner, pruner: Pruner) -> None:
        """Trains on after a phase of a former run."""
        check_finished(pruner.progress.target, self.target)
        forget_entry(runner.message_hub, LOGGED_LOSS)
        report_groups(runner.logger, pruner)
        self._end(runner, pruner)

    def _check(self, runner: Runner, pruner: Pruner) -> None:
        check_wrapper(runner)
        warn_of_others(runner)
        settings, steps = self._settings(pruner), self.length.steps(runner)
        if pruner.phase == Phase.PRUNING:
            check_resumed(self._loaded, settings, pruner.progress, steps)
        self.length.check(runner, pruner)
        pruner.check_reachable(self.target)
        runner.logger.info(
            f'Pruning: {len(pruner.groups)} groups, {len(pruner.gate)} '
            f'channels; {ratios_text(self.target)} '
            f'{self.length.text(runner, pruner)}'
        )
        runner.optim_wrapper.pruner = pruner

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
            prepare_score(runner, pruner)
            pruner.begin(self.target, self.length.steps(runner))
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
        mask_averages(runner, pruner)
        self._report_ratios(runner, pruner.ratios(list(self.target)))
        ended = self._phase == Phase.PRUNING and pruner.phase == Phase.FINISHED
        if ended or (
            pruner.phase == Phase.PRUNING
            and self.every_n_train_iters(runner, self.interval)
        ):
            runner.visualizer.add_scalars(
                group_scalars(pruner), step=runner.iter + 1
            )
        if ended:
            report_groups(runner.logger, pruner)
            forget_entry(runner.message_hub, LOGGED_LOSS)
            self._end(runner, pruner)
            start_anew(runner)

    def _end(self, runner: Runner, pruner: Pruner) -> None:
        """Narrows, if that was asked for and can be done."""
        if not self.narrow:
            return
        plan, model = pruner.plan(), unwrap(runner.model)
        obstacle = find_obstacle(runner, plan, pruner.input_shape)
        if obstacle is not None:
            runner.logger.warning(
                f'Pruning: the model is not narrowed; masks stay: {obstacle}'
            )
            self.narrow = False
            return
        before = count_parameters(model)
        self._step_time.narrowed(runner)
        self._narrow(runner, plan)
        report_narrowing(runner.logger, plan, before, count_parameters(model))

    def _narrow(self, runner: Runner, plan: ChannelPlan) -> None:
        narrow_run(runner, plan)
        self.plan = plan
        wrapper = getattr(runner, 'optim_wrapper', None)
        if isinstance(wrapper, _PrunerStep):
            wrapper.pruner = None

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
        pruner = getattr(unwrap(runner.model), 'pruner', None)
        if isinstance(pruner, Pruner):
            hold(runner, pruner.phase)

    def after_train(self, runner: Runner) -> None:
        """Says so if training ended before the phase did.

        Args:
            runner (Runner): The runner of the training process.
        """
        if self.plan is None:
            warn_unfinished(runner, find_pruner(runner.model))

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses what is not finite; adds settings while there are masks.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        check_saved(runner, self._infinite)
        if self.plan is None:
            self._settings(find_pruner(runner.model)).write(checkpoint)

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Gives the model the shape of the weights that follow.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        check_averages(runner)
        self._loaded = RunSettings.read(checkpoint)
        # Before the weights would do it, without averages and optimizer.
        found = plans_in(checkpoint.get('state_dict', checkpoint))
        if found:
            for plan in missing_plans(unwrap(runner.model), found):
                self._narrow(runner, plan)
        self._take_over(runner, checkpoint)
        # A FlexibleRunner loads before it calls ``before_run``.
        for hook in self._add_hooks(runner):
            hook.after_load_checkpoint(runner, checkpoint)

    def _take_over(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuses masks of another network; forgets a phase that ends here."""
        pruner = getattr(unwrap(runner.model), 'pruner', None)
        phase = loaded_phase(checkpoint)
        if phase is None or not isinstance(pruner, Pruner):
            return
        settings, alone = self._settings(pruner), takes_weights_alone(runner)
        if phase == Phase.FINISHED or (phase == Phase.PRUNING and not alone):
            check_places(self._loaded, settings)
            return
        if runner._resume:
            check_dense(self._loaded, settings)
        forget_phase(runner, checkpoint, pruner)
