# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Narrow weights for a model that knows nothing of pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import Pruner, PruningError
from mmlapp.core.pruner.saved import check_gate

from ..checkpoints.optimizers import note_optimizer
from ..checkpoints.reading import PREFIX
from ..checkpoints.safe_checkpoint import leave_out_functions
from ..checkpoints.state import check_resumable, check_taken_up
from ..hook_list import has_hook
from ..models.branch_names import BRANCH
from ..models.hook_reminder import NO_HOOK
from ..models.plans import Plans, carries_plans, missing_plans, plans_in
from ..models.weight_names import check_shapes, weights_of
from .hook_state import HookState
from .parts import run_optimizer, unwrap


class PlainModelHook(Hook):
    """Refuses weights of a pruning run for a model that is not prunable.

    For the dense model of a plain config MMEngine would leave most of the
    narrow ones out and go on with random ones, or leave out masks and
    bypasses and compute something else.
    """

    # Before hooks that read loaded weights, such as EMAHook, which would fail
    # first and less clearly.
    priority = 'VERY_HIGH'

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Notes the class of the optimizer, whatever the run.

        Leaves out what could not be read again.

        Args:
            runner (Runner): The runner of the training process.
            checkpoint (dict): The checkpoint to be saved.
        """
        model = unwrap(runner.model)
        note_optimizer(run_optimizer(runner), model, checkpoint)
        leave_out_functions(checkpoint)

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
        if not carries_plans(model):
            _check_plain(model, weights, plans)
        if _is_masked(model, weights):
            raise PruningError(
                'the checkpoint has masks or bypasses of a pruning run, which '
                f'the plain {type(model).__name__} of the config would lose, '
                'and compute something else. Give the config of that run, or '
                'deploy it with tools/deploy.py'
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


def _check_plain(
    model: nn.Module, weights: Mapping[str, Any], plans: Plans
) -> None:
    """Refuses what no plain model can take."""
    if plans:
        raise PruningError(
            'the checkpoint is of a narrowed model, and the config builds a '
            f'plain {type(model).__name__}. Give the config of the pruning '
            "run (model.type='mmlapp.PrunableModel') or the one that "
            'tools/deploy.py wrote'
        )
    check_shapes(model, weights)


def _is_masked(model: nn.Module, weights: Mapping[str, Any]) -> bool:
    """Whether weights need masks or bypasses that a model does not have."""
    gate = weights.get(f'{PREFIX}gate')
    if gate is None or isinstance(model._modules.get('pruner'), Pruner):
        return False
    check_gate(f'{PREFIX}gate', gate)
    own = model.state_dict().keys()
    branches = {name for name in weights if BRANCH in name}
    return bool((gate != 1).any() or branches - own)


def _trains_alone(runner: Runner) -> bool:
    """Whether an optimizer would keep parameters of before narrowing."""
    optimizer = run_optimizer(runner)
    return optimizer is not None and not has_hook(runner, HookState)
