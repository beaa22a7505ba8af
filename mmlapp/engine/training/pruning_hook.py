# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The hook that prunes, and how its run begins."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner

from mmlapp.core import ChannelPlan, Pruner
from mmlapp.core.progress import Phase
from mmlapp.registry import HOOKS

from ..checkpoints.checked_loading import check_loading
from ..checkpoints.finite import infinite_buffers
from ..checkpoints.random_state import RandomStateHook
from ..checkpoints.safe_checkpoint import save_safely
from ..hook_list import check_before, check_single, has_hook, insert_before
from .best_scores import forget_entry, warn_of_others
from .calibration import prepare_score
from .compiled import leave_uncompiled
from .hook_phase import LOGGED_LOSS, HookPhase
from .limits import check_one_optimizer, check_run, check_wrapper
from .optim_wrapper import attend
from .parts import find_pruner, run_optimizer, unwrap
from .ranks import RankCheckHook
from .report import channels_text, groups_text, ratios_text, report_groups
from .run_settings import check_finished, check_resumed
from .unfinished import start_afresh
from .untrained import warn_of_untrained


@HOOKS.register_module()
class PruningHook(HookPhase):
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
        end (str or Mapping, optional): What ends the phase before its length
            is over: ``stable``, kept channels that were the same over two
            epochs, with ``similarity`` (0.999) and ``epoch`` (steps of the
            optimizer; those of the data loader) as settings. Defaults to
            None: nothing does.
        train_cost (float or str, optional): What the whole run may cost as a
            fraction of dense training, ``'dense'`` for all of it: training
            and its schedule are made longer by what is saved, see
            :func:`~mmlapp.engine.equal_cost`. Defaults to None: lengths are
            those of the config.
        dense_length (Mapping[str, int], optional): Length that training had
            before, as ``epochs`` or ``iters``, which ``equal_cost`` notes.
            Defaults to None.
        epoch_iters (int, optional): Iterations of an epoch, which
            ``train_cost`` needs where the phase is counted in another unit
            than training. Defaults to None.

    Attributes:
        plan (ChannelPlan, optional): What the model of the run was narrowed
            to; None as long as it is wide.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> from mmlapp.registry import HOOKS
        >>> hook = HOOKS.build(
        ...     dict(
        ...         type='mmlapp.PruningHook',
        ...         target=dict(flops=0.5, parameters=0.6),
        ...         prune_epochs=2,
        ...     )
        ... )
        >>> hook.target, hook.narrow
        ({'flops': 0.5, 'parameters': 0.6}, True)
    """

    def before_run(self, runner: Runner) -> None:
        """Refuses what cannot work and adds the hooks that go with it.

        Args:
            runner (Runner): The runner of the training process.
        """
        check_single(runner, PruningHook)
        # A checkpoint has one average: the second would take its place.
        check_single(runner, EMAHook)
        check_run(runner, self.narrow)
        check_loading(runner)
        attend(runner)
        self._add_hooks(runner)

    def _add_hooks(self, runner: Runner) -> list[Hook]:
        """Registers what the user did not; returns the new ones."""
        save_safely(runner)
        added: list[Hook] = []
        # Each with the hook that it must act before.
        companions: list[tuple[Hook, type[Hook]]] = [
            (RankCheckHook(self.interval), PruningHook),
            (RandomStateHook(), CheckpointHook),
        ]
        for hook, later in companions:
            if not has_hook(runner, type(hook)):
                insert_before(runner, hook, later)
                added.append(hook)
        return added

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Gives the model the shape of the weights that follow.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        super().after_load_checkpoint(runner, checkpoint)
        # A FlexibleRunner loads before it calls ``before_run``.
        for hook in self._add_hooks(runner):
            hook.after_load_checkpoint(runner, checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Checks that the target and the phase fit the model and the run.

        Args:
            runner (Runner): The runner of the training process.
        """
        self.cost.check_applied()
        # Also of a narrow model, whose parameters they do not have.
        check_one_optimizer(runner)
        for hook in runner.hooks:
            if isinstance(hook, RankCheckHook):
                check_before(runner, hook, PruningHook)
        # Now, since what becomes infinite while it trains has diverged.
        self._infinite = infinite_buffers(unwrap(runner.model))
        # Loading has narrowed the model: it is that of a run whose phase is
        # over.
        if self.plan is not None:
            self._go_on_narrow(runner, self.plan)
            return
        pruner = find_pruner(runner.model)
        if runner.cfg.get('compile'):
            leave_uncompiled(pruner)
        start_afresh(runner, pruner)
        if pruner.phase == Phase.FINISHED:
            self._go_on(runner, pruner)
        else:
            self._check(runner, pruner)
            self._history.open(runner, pruner)
        # Resumed: a score that is computed once is in the checkpoint.
        if pruner.phase == Phase.PRUNING and pruner.scorer.score.refresh:
            prepare_score(runner, pruner)
        self._loaded = None

    def _go_on_narrow(self, runner: Runner, plan: ChannelPlan) -> None:
        """Trains a model on that a former run has narrowed."""
        forget_entry(runner.message_hub, LOGGED_LOSS)
        check_finished(plan.targets(), self.target)
        runner.logger.info(
            'Pruning: the model is narrow already, '
            f'{ratios_text(plan.ratios())}, {channels_text(plan)}; there is '
            'no phase'
        )
        self._history.open(runner, plan)

    def _go_on(self, runner: Runner, pruner: Pruner) -> None:
        """Trains on after a phase of a former run."""
        check_finished(pruner.progress.target, self.target)
        self._history.open(runner, pruner)
        forget_entry(runner.message_hub, LOGGED_LOSS)
        report_groups(runner.logger, pruner)
        self._end(runner, pruner)

    def _check(self, runner: Runner, pruner: Pruner) -> None:
        check_wrapper(runner)
        warn_of_others(runner)
        warn_of_untrained(pruner, run_optimizer(runner))
        settings, steps = self._settings(pruner), self.length.steps(runner)
        if pruner.phase == Phase.PRUNING:
            check_resumed(self._loaded, settings, pruner.progress, steps)
        else:
            self.length.end_rule(runner, self.end)
        self.length.check(runner, pruner)
        pruner.check_reachable(self.target)
        end = self.length.end(runner, pruner)
        begin = self.length.begin_iters
        self.cost.check(runner, pruner, self.target, begin, end)
        runner.logger.info(
            f'Pruning: {groups_text(pruner)}; {ratios_text(self.target)} '
            f'{self.length.text(runner, pruner)}'
        )
        # When nothing was refused: its next step is a step of the pruner.
        runner.optim_wrapper.pruner = pruner
