# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Narrow weights for a model that knows nothing of pruning."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmlapp.core import PruningError

from ..checkpoints.optimizers import note_optimizer
from ..checkpoints.state import check_resumable, check_taken_up
from ..hook_list import has_hook
from ..models.hook_reminder import NO_HOOK
from ..models.plans import carries_plans, missing_plans, plans_in
from ..models.weight_names import weights_of
from .hook_state import HookState
from .parts import run_optimizer, unwrap


class PlainModelHook(Hook):
    """Refuses narrow weights where nothing makes the model narrow.

    For the dense model of a plain config MMEngine would leave most of them
    out and go on with random ones.
    """

    # Before hooks that read loaded weights, such as EMAHook, which would fail
    # first and less clearly.
    priority = 'VERY_HIGH'

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Notes the class of the optimizer, whatever the run.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        model = unwrap(runner.model)
        note_optimizer(run_optimizer(runner), model, checkpoint)

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Compares a checkpoint with the model of the runner.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.

        Raises:
            PruningError: If there is no whole state to resume, if the model
                cannot become narrow, or the optimizer of its training cannot
                follow.
        """
        alone = not has_hook(runner, HookState)  # which asks itself
        if alone:
            check_resumable(runner, checkpoint)
        model, weights = unwrap(runner.model), weights_of(checkpoint)
        plans = plans_in(weights)
        if plans and not carries_plans(model):
            raise PruningError(
                'the checkpoint is of a narrowed model, and the config builds '
                f'a plain {type(model).__name__}. Give the config of the '
                "pruning run (model.type='mmlapp.PrunableModel') or the one "
                'that tools/deploy.py wrote'
            )
        if plans and _trains_alone(runner) and missing_plans(model, plans):
            raise PruningError(
                'the checkpoint is of a narrowed model, and its parameters '
                'are new ones that the optimizer of this run does not have: '
                f'{NO_HOOK}. Add it, or train the config that '
                'tools/deploy.py wrote'
            )
        # HookState does so by itself, once the model is as narrow as the
        # weights.
        if alone and runner._resume:
            check_taken_up(runner, model, checkpoint, weights)


def _trains_alone(runner: Runner) -> bool:
    """Whether an optimizer would keep parameters of before narrowing."""
    optimizer = run_optimizer(runner)
    return optimizer is not None and not has_hook(runner, HookState)
