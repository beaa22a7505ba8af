# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Everything in a run that must become small with its model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mmlapp.core import ChannelPlan, narrow
from mmlapp.core.narrowing.optimizer_state import check_states

from .model_wrapper import PruningDistributedDataParallel


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside wrappers for distributed training or TTA."""
    while is_model_wrapper(model) or _is_tta(model):
        model = model.module  # type: ignore[assignment]
    return model


def _is_tta(model: nn.Module) -> bool:
    return any(kind.__name__ == 'BaseTTAModel' for kind in type(model).mro())


def narrowed_plan(model: nn.Module) -> ChannelPlan | None:
    """Returns the plan of a model that was narrowed inside its run.

    Args:
        model (nn.Module): Any model, wrapped or not.
    """
    return vars(unwrap(model)).get('_pruning_plan')


def averaged_models(runner: Runner) -> Iterator[Any]:
    """Yields the averaged copies (EMA) that hooks keep."""
    for hook in runner.hooks:
        averaged = getattr(hook, 'ema_model', None)
        if averaged is not None:
            yield averaged


def run_optimizer(runner: Runner) -> Optimizer | None:
    """Returns the optimizer of a run; None if there is none yet."""
    wrapper = getattr(runner, 'optim_wrapper', None)
    if not isinstance(wrapper, OptimWrapper):
        return None
    # An OptimWrapperDict has several, and does not step the thresholds.
    return getattr(wrapper, 'optimizer', None)


def check_optimizer(runner: Runner) -> None:
    """Raises PruningError if a state could not be narrowed.

    Args:
        runner (Runner): The runner of the training process.
    """
    optimizer = run_optimizer(runner)
    if optimizer is not None:
        check_states(optimizer, list(optimizer.state))


def narrow_run(runner: Runner, plan: ChannelPlan) -> None:
    """Narrows model, averaged copies and optimizer, and wraps anew.

    Args:
        runner (Runner): The runner of a training or test process.
        plan (ChannelPlan): What to keep.

    Raises:
        PruningError: If the plan does not fit or a state of the optimizer
            cannot follow.
    """
    model, optimizer = unwrap(runner.model), run_optimizer(runner)
    narrow(model, plan, optimizer)
    model.__dict__['_pruning_plan'] = plan
    for averaged in averaged_models(runner):
        narrow(averaged.module, plan)
        averaged.avg_parameters = (
            averaged.module.state_dict()
            if getattr(averaged, 'update_buffers', False)
            else dict(averaged.module.named_parameters())
        )
    if isinstance(runner.model, DistributedDataParallel):
        _wrap_anew(runner, model)
    if runner.cfg.get('compile'):
        torch.compiler.reset()


def _wrap_anew(runner: Runner, model: nn.Module) -> None:
    """The reducer's buckets hold the wide parameters."""
    wrapper = runner.model
    if isinstance(wrapper, PruningDistributedDataParallel):
        wrapper.rebuild()
        return
    # Until it is gone, the old reducer listens to unchanged parameters.
    del wrapper.reducer, wrapper.logger
    compiled = 'train_step' in vars(wrapper)
    runner.model = runner.wrap_model(
        runner.cfg.get('model_wrapper_cfg'), model
    )
    runner.model.training = wrapper.training
    if compiled:
        runner._maybe_compile('train_step')
