# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the hook writes into checkpoints and does with loaded ones."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner

from mmlapp.core.progress import Phase

from ..checkpoints.optimizers import note_optimizer
from ..checkpoints.state import check_resumable, check_taken_up
from ..models.plans import missing_plans, plans_in
from ..models.weight_names import weights_of
from .averages import check_averages
from .hook_state import HookState
from .limits import check_saved
from .parts import find_pruner, own_pruner, run_optimizer, unwrap
from .run_settings import RunSettings, check_dense, check_places
from .unfinished import (
    forget_phase,
    leave_out_branches,
    loaded_phase,
    takes_weights_alone,
)


class HookCheckpoints(HookState):
    """The part of :class:`PruningHook` that saves and loads.

    Takes its arguments.
    """

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses what is not finite; adds settings while there are masks.

        The class of the optimizer is noted in any case.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        check_saved(runner, self._infinite)
        model = unwrap(runner.model)
        note_optimizer(run_optimizer(runner), model, checkpoint)
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
        # First what cannot be loaded at all, before the model changes.
        check_averages(runner)
        check_resumable(runner, checkpoint)
        self._loaded = RunSettings.read(checkpoint)
        # Before the weights would do it, without averages and optimizer.
        weights, model = weights_of(checkpoint), unwrap(runner.model)
        found = plans_in(weights)
        if found:
            for plan in missing_plans(model, found):
                self._narrow(runner, plan)
        self._take_over(runner, checkpoint)
        if runner._resume:
            check_taken_up(runner, model, checkpoint, weights)

    def _take_over(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuses masks of another network; forgets a phase that ends here."""
        pruner = own_pruner(runner.model)
        phase = loaded_phase(checkpoint)
        if phase is None or pruner is None:
            return
        # Masks that go on must be of this network. Those of a phase that was
        # broken off go on in a resumed run; where its weights alone are taken,
        # a phase of this run begins instead.
        settings, alone = self._settings(pruner), takes_weights_alone(runner)
        if phase == Phase.FINISHED or (phase == Phase.PRUNING and not alone):
            check_places(self._loaded, settings)
            return
        if runner._resume:
            check_dense(self._loaded, settings)
        else:
            leave_out_branches(runner, checkpoint)
        # Also of a dense checkpoint: its gate may be of other groups.
        forget_phase(runner, checkpoint, pruner)
