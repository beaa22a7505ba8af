# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases without an end: of a former run, and of this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner import BaseLoop, Runner

from mmlapp.core import Pruner
from mmlapp.core.progress import Phase
from mmlapp.core.pruner.saved import read_progress

from ..models.branch_names import BRANCH
from .averages import mask_averages
from .parts import unwrap

# Of the pruner's names in the state dict of its model.
PREFIX = 'pruner.'
# Of a checkpoint, and how all names in them begin.
PARTS = ('state_dict', ''), ('ema_state_dict', 'module.')


def loaded_phase(checkpoint: Mapping[str, Any]) -> Phase | None:
    """Returns where the pruning of a checkpoint's model stands.

    Args:
        checkpoint (Mapping): Any checkpoint.

    Returns:
        Phase or None: None if it knows of no pruning.

    Raises:
        PruningError: If it is none that a pruner has written.
    """
    name = f'{PREFIX}progress'
    progress = (checkpoint.get('state_dict') or {}).get(name)
    return None if progress is None else read_progress(name, progress).phase


def takes_weights_alone(runner: Runner) -> bool:
    """Whether what is loaded is where a new training begins.

    Args:
        runner (Runner): The runner, while it loads.
    """
    # A runner that tests or validates has only the config of this loop.
    return isinstance(runner._train_loop, BaseLoop) and not runner._resume


def forget_phase(
    runner: Runner, checkpoint: Mapping[str, Any], pruner: Pruner
) -> None:
    """Puts the state of a phase that has not begun into a checkpoint.

    That of the checkpoint may be of other groups or of another method.

    Args:
        runner (Runner): The runner, before it loads the weights.
        checkpoint (Mapping): Changed in place, averaged weights included.
        pruner (Pruner): Of its model, as it was built.
    """
    if loaded_phase(checkpoint) == Phase.PRUNING:
        runner.logger.info(
            'Pruning: the checkpoint is from within a phase, and only its '
            'weights are taken; a new phase begins with all channels'
        )
    for part, prefix in PARTS:
        state = checkpoint.get(part, {})
        # All names go, not the known ones alone: another method has others.
        for name in [n for n in state if n.startswith(prefix + PREFIX)]:
            del state[name]
        if state:
            # A copy for each: the model and its average go their own ways.
            mine = pruner.state_dict(prefix=prefix + PREFIX)
            state.update({k: v.clone() for k, v in mine.items()})


def leave_out_branches(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Takes the branches of another bypass out of a checkpoint.

    MMEngine passes over what has other dimensions, but not in averages.

    Args:
        runner (Runner): The runner, before it loads the weights.
        checkpoint (Mapping): Changed in place, averaged weights included.
    """
    model = unwrap(runner.model).state_dict()
    others = {}
    for part, prefix in PARTS:
        state = checkpoint.get(part, {})
        for name in [name for name in state if BRANCH in name]:
            own = model.get(name.removeprefix(prefix))
            if own is None or own.shape != state[name].shape:
                others[name.removeprefix(prefix)] = state.pop(name)
    if others:
        runner.logger.info(
            'Pruning: the checkpoint has branches of another bypass, such as '
            f'{next(iter(others))}, which are left out'
        )


def start_afresh(runner: Runner, pruner: Pruner) -> None:
    """Forgets the phase of a run whose weights alone were taken over.

    Args:
        runner (Runner): The runner, before its training; past its first
            iteration it was resumed, and the phase goes on.
        pruner (Pruner): Of its model.
    """
    if pruner.phase != Phase.PRUNING or runner.iter > 0:
        return
    runner.logger.info(
        'Pruning: the weights that were loaded are from within a phase '
        f'({_place(pruner)}); a new one begins with all channels'
    )
    pruner.reset()
    mask_averages(runner, pruner)


def warn_unfinished(runner: Runner, pruner: Pruner) -> None:
    """Says so if training ended before the phase did.

    Args:
        runner (Runner): The runner, at the end of its training.
        pruner (Pruner): Of its model.
    """
    if pruner.phase == Phase.DENSE:
        reason = 'its phase had not begun'
    elif pruner.phase == Phase.PRUNING:
        reason = f'its phase had not ended ({_place(pruner)})'
    else:
        return
    runner.logger.warning(
        f'Pruning: training ended at iteration {runner.iter}, and the model '
        f'is not pruned: {reason}. Resume for longer, or let what ended the '
        'training wait'
    )


def _place(pruner: Pruner) -> str:
    return f'step {pruner.progress.done} of {pruner.progress.steps}'
