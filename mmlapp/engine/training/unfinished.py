# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases without an end: of a former run, and of this one."""

from __future__ import annotations

from mmengine.runner import Runner

from mmlapp.core import Pruner
from mmlapp.core.progress import Phase

from .averages import mask_averages


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
