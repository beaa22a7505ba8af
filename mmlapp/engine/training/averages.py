# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Averaged copies of the model (EMA), which are pruned like the model."""

from __future__ import annotations

from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from mmlapp.core import ChannelPlan, Pruner, PruningError
from mmlapp.core.narrowing.narrow import detach

from ..hook_list import averaged_models
from ..models.plans import narrow_model, plans_of
from .parts import find_pruner, run_optimizer


def check_averages(runner: Runner) -> None:
    """Refuses averages that are not there when a checkpoint is loaded.

    ``EMAHook`` makes them in ``before_run``, which ``FlexibleRunner`` calls
    after it has loaded, and fails without a word of that.

    Args:
        runner (Runner): The runner, while it loads.

    Raises:
        PruningError: With what works.
    """
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and not hasattr(hook, 'ema_model'):
            raise PruningError(
                f'load_from or resume: {type(runner).__name__} loads before '
                f'{type(hook).__name__} has made its averaged model, and '
                'MMEngine cannot load it later. Use Runner, or leave '
                f'{type(hook).__name__} out of custom_hooks'
            )


def mask_averages(runner: Runner, pruner: Pruner) -> None:
    """Gives the averaged copies the gate and the method of the model.

    With ``update_buffers`` their own would be averages of gates.

    Args:
        runner (Runner): The runner of the training process.
        pruner (Pruner): Of the model.
    """
    for averaged in averaged_models(runner):
        # Averaged gates would be fractions; the decision is that of the model.
        find_pruner(averaged.module).take_over(pruner)


def empty_removed(runner: Runner, pruner: Pruner) -> None:
    """Makes zero what masks hide, in the model and in its averaged copies.

    Outputs stay, and so do the zeros: they have no gradient, and the optimizer
    forgets what they had. Who reads the weights without masks, as a plain
    config does, gets the same network.

    Args:
        runner (Runner): The runner of the training process.
        pruner (Pruner): Of the model, after its phase.
    """
    pruner.multiply(pruner.gate, run_optimizer(runner))
    for averaged in averaged_models(runner):
        own = find_pruner(averaged.module)
        own.multiply(own.gate)


def narrow_averages(runner: Runner, plan: ChannelPlan) -> None:
    """Narrows the averaged copies.

    Args:
        runner (Runner): The runner of a training or test process.
        plan (ChannelPlan): What to keep.
    """
    for averaged in averaged_models(runner):
        # A hook of a higher priority has loaded narrow weights before.
        if not any(plan.same_shape(own) for own in plans_of(averaged.module)):
            # The plan is that of the model; averages of masks are none.
            narrow_model(detach(averaged.module), plan)
        # The average holds its tensors in a dictionary of its own: those of
        # before are wide.
        averaged.avg_parameters = (
            averaged.module.state_dict()
            if getattr(averaged, 'update_buffers', False)
            else dict(averaged.module.named_parameters())
        )
