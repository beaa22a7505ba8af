# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint has beside weights: of this package, of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmlapp.core import PruningError
from mmlapp.core.plan.carried import KEY as PLANS

from ..hook_list import has_hook
from ..run_end import end_of_training
from .optimizers import check_optimizer, check_parameters, other_settings
from .schedules import other_schedules

# Where EMAHook saves the weights that it has averaged.
AVERAGED = 'ema_state_dict'
# What MMEngine asks the state of its log for.
HUB = 'log_scalars', 'runtime_info', 'resumed_keys'


def check_version(key: str, entry: Any, version: int) -> None:
    """Refuses an entry of a checkpoint that another release wrote.

    Args:
        key (str): Its name in the checkpoint.
        entry (Any): What is there.
        version (int): The version that this release reads.

    Raises:
        PruningError: With both versions.
    """
    found = entry.get('version') if isinstance(entry, Mapping) else None
    if found != version:
        raise PruningError(
            f'the checkpoint has {key} of version {found!r}: this release '
            f'reads version {version}. Use the release that wrote it'
        )


def check_complete(model: nn.Module, weights: Any) -> None:
    """Refuses to resume with weights of which some are missing.

    MMEngine says so in its log, and goes on with random ones. What a pruner
    has is checked by itself.

    Args:
        model (nn.Module): As it is to go on, narrow where the weights are.
        weights (Mapping): Of the checkpoint, by the names of the model.

    Raises:
        PruningError: With the first tensor that is missing or another one.
    """
    for name, own in model.state_dict().items():
        # The pruner and the plans are read before any weight, with errors of
        # their own.
        if name.startswith('pruner.') or name == PLANS:
            continue
        found = weights.get(name)
        if not isinstance(found, Tensor) or found.shape != own.shape:
            other = type(found).__name__
            told = tuple(found.shape) if isinstance(found, Tensor) else other
            raise PruningError(
                f'resume: {name} of the model has shape {tuple(own.shape)}, '
                f'in the checkpoint it is {told}: it is of another model. '
                'Resume with the config of that run, or name the checkpoint '
                'in load_from without resume'
            )


def check_resumable(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuses to go on from weights alone, as published ones are.

    So is the state of an optimizer of another class. Warns where it is all
    that is missing.

    Args:
        runner (Runner): The runner, while it loads.
        checkpoint (Mapping): What it has read.

    Raises:
        PruningError: With what works.
    """
    if not runner._resume:
        return
    # A runner saves it with every checkpoint; publishing drops it.
    if 'message_hub' not in checkpoint:
        raise PruningError(
            'resume: the checkpoint has weights, but not the state of a '
            'training (it was published or deployed). Name it in load_from '
            'without resume, or resume from a checkpoint of the run itself'
        )
    _check_state(checkpoint)
    _warn_of_the_end(runner, checkpoint['meta'])
    _warn_of_averages(runner, checkpoint)
    if 'optimizer' not in checkpoint:
        runner.logger.warning(
            'resume: the checkpoint has no state of the optimizer, as those '
            'of save_best and save_optimizer=False: the weights go on, '
            'momentum begins anew. A checkpoint of an interval has it'
        )
        return
    if optimizer := _optimizer(runner):
        check_optimizer(optimizer, checkpoint)


def _warn_of_the_end(runner: Runner, meta: Mapping[str, Any]) -> None:
    """MMEngine trains nothing then, and says nothing."""
    done = meta['iter']
    if done >= end_of_training(runner, done, meta['epoch']):
        runner.logger.warning(
            f'resume: the checkpoint is from epoch {meta["epoch"]}, iteration '
            f'{done}, and training ends after {runner.max_epochs} epochs or '
            f'{runner.max_iters} iterations: nothing is left to train. To '
            'train on, raise train_cfg.max_epochs or max_iters'
        )


def _warn_of_averages(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """``EMAHook`` saves averages in the place of the weights themselves."""
    if AVERAGED in checkpoint and not has_hook(runner, EMAHook):
        runner.logger.warning(
            'resume: the weights of the checkpoint are averages of EMAHook, '
            'and this run, which has no such hook, trains on from them with '
            'the optimizer of the weights themselves. Add the hook of that '
            'run to custom_hooks to go on as it would have'
        )


def _optimizer(runner: Runner) -> Optimizer | None:
    wrapper = getattr(runner, 'optim_wrapper', None)
    # An OptimWrapperDict has several.
    optimizer = getattr(wrapper, 'optimizer', None)
    return optimizer if isinstance(optimizer, Optimizer) else None


def check_taken_up(
    runner: Runner,
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    weights: Mapping[str, Any],
) -> None:
    """Refuses to resume what is of another model, before it is loaded.

    Warns of settings of the run that do not count: those of optimizer and
    schedulers are in their states.

    Args:
        runner (Runner): The runner, while it loads.
        model (nn.Module): Its model, in the shape in which it goes on.
        checkpoint (Mapping): What it has read.
        weights (Mapping): Of the checkpoint, by the names of the model.

    Raises:
        PruningError: With the first weight or parameter of the optimizer
            that is missing or another one.
    """
    check_complete(model, weights)
    told = other_schedules(
        getattr(runner, 'param_schedulers', None),
        checkpoint.get('param_schedulers'),
    )
    optimizer = _optimizer(runner)
    if optimizer is not None and 'optimizer' in checkpoint:
        check_parameters(optimizer, model, checkpoint)
        told = [*other_settings(optimizer, checkpoint), *told]
    if told:
        runner.logger.warning(
            'resume: optimizer and schedulers go on with the settings of the '
            f'checkpoint ({"; ".join(told)}). For those of the config start a '
            'new run from the weights: load_from, without resume'
        )


def _check_state(checkpoint: Mapping[str, Any]) -> None:
    """Refuses what no runner has written."""
    meta, hub = checkpoint.get('meta'), checkpoint['message_hub']
    counts = meta if isinstance(meta, Mapping) else {}
    for name in ('iter', 'epoch'):
        value = counts.get(name)
        # By type, since True is an int to Python.
        if type(value) is not int or value < 0:
            raise _damaged(f'meta.{name}', value)
    if not isinstance(hub, Mapping) or not set(HUB) <= set(hub):
        raise _damaged('message_hub', sorted(hub) if hub else hub)
    schedulers = checkpoint.get('param_schedulers', [])
    if not isinstance(schedulers, (list, Mapping)):
        raise _damaged('param_schedulers', schedulers)


def _damaged(name: str, found: Any) -> PruningError:
    return PruningError(
        f'resume: {name} of the checkpoint is {found!r:.80}, which no runner '
        'has written. Give another checkpoint of the run'
    )
