# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Runs in which pruning cannot work, or can no longer work."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.core.bypass.beside import Bypassed

from ..checkpoints.finite import check_finite
from ..hook_list import averaged_models
from .optim_wrapper import PruningOptimWrapper, _PrunerStep
from .parts import run_optimizer, unwrap

WHOLE = (
    'The masks need whole parameters on every process: use '
    "type='mmlapp.PruningDistributedDataParallel' as model_wrapper_cfg, or "
    'none'
)
NARROW = 'Set narrow=False in mmlapp.PruningHook'
# Types of what shards or splits the model: what cannot be done with them.
WRAPPERS = {
    'MMFullyShardedDataParallel': WHOLE,
    'FullyShardedDataParallel': WHOLE,
    'MMSeparateDistributedDataParallel': WHOLE,
    'MMDataParallel': WHOLE,
    'DataParallel': WHOLE,
}
STRATEGIES = dict.fromkeys(
    ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy'),
    f'{WHOLE}, with mmengine.runner.Runner',
)
NOT_NARROWED = {
    'ZeroRedundancyOptimizer': f'It shards its state. {NARROW}',
    'LBFGS': f'Its state belongs to no single parameter. {NARROW}',
    'DDPStrategy': f'It keeps the wrapped model to itself. {NARROW}, or use '
    'mmengine.runner.Runner',
}


def check_run(runner: Runner, narrow: bool) -> None:
    """Refuses what cannot work, before training begins.

    Args:
        runner (Runner): The runner.
        narrow (bool): Whether the model shall be narrowed inside the run.

    Raises:
        PruningError: With the setting and the remedy.
    """
    strategy = getattr(runner, 'strategy', None)
    _refuse('strategy', strategy, STRATEGIES)
    _refuse('model_wrapper_cfg', runner.model, WRAPPERS)
    if narrow:
        _refuse('strategy', strategy, NOT_NARROWED)
        _refuse('optimizer', run_optimizer(runner), NOT_NARROWED)
    if runner.cfg.get('efficient_conv_bn_eval') and any(
        isinstance(module, Bypassed)
        for module in unwrap(runner.model).modules()
    ):
        raise PruningError(
            'efficient_conv_bn_eval computes a convolution without its '
            'bypass. Leave it out of the config, or the bypass'
        )


def check_one_optimizer(runner: Runner) -> None:
    """Refuses several optimizers, of which none follows the pruner.

    Args:
        runner (Runner): The runner.

    Raises:
        PruningError: With what to do instead.
    """
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        raise PruningError(
            'optim_wrapper=OptimWrapperDict: several optimizers are not '
            'supported, of whatever type their wrappers are. Give all '
            'parameters to a single '
            f"type='mmlapp.{PruningOptimWrapper.__name__}'; its paramwise_cfg "
            'gives some of them their own learning rate'
        )


def check_wrapper(runner: Runner) -> None:
    """Refuses an optimizer wrapper that does not step the pruner.

    Args:
        runner (Runner): The runner.

    Raises:
        PruningError: With its type and the right one.
    """
    if not isinstance(runner.optim_wrapper, _PrunerStep):
        kind = type(runner.optim_wrapper).__name__
        raise PruningError(
            f'optim_wrapper={kind} does not step the pruner: use '
            f"type='mmlapp.{PruningOptimWrapper.__name__}'"
        )


def check_saved(runner: Runner, infinite: Collection[str] = ()) -> None:
    """Refuses to save a model or an average of it that has diverged.

    Args:
        runner (Runner): The runner of the training process.
        infinite (Collection[str]): See :func:`check_finite`. Defaults to
            none.

    Raises:
        PruningError: With the first parameter or buffer that is not finite.
    """
    check_finite(unwrap(runner.model), infinite)
    # An average may be damaged where the model has recovered: one step of NaN
    # stays in it for good.
    for averaged in averaged_models(runner):
        check_finite(averaged.module, infinite, 'the average of ')


def _refuse(setting: str, value: Any, reasons: dict[str, str]) -> None:
    # By name, of any base: to import them would ask for packages, such as
    # deepspeed, that a run without them need not have.
    kinds = [kind.__name__ for kind in type(value).mro()]
    for kind in kinds:
        if kind in reasons:
            raise PruningError(f'{setting}: {kinds[0]}. {reasons[kind]}')
