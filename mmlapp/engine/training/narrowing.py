# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Everything in a run that must become small with its model."""

from __future__ import annotations

import torch
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmlapp.core import ChannelPlan
from mmlapp.core.narrowing.optimizer_state import check_states

from ..models.plans import narrow_model
from .averages import narrow_averages
from .model_wrapper import PruningDistributedDataParallel
from .parts import run_optimizer, unwrap


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
    # The model first, for what it refuses leaves the run as it was; DDP last,
    # since it looks at the parameters that there are.
    narrow_model(model, plan, optimizer)
    narrow_averages(runner, plan)
    if isinstance(runner.model, DistributedDataParallel):
        _wrap_anew(runner, model)
    if runner.cfg.get('compile'):
        # What was compiled is of the wide parameters.
        torch.compiler.reset()


def _wrap_anew(runner: Runner, model: nn.Module) -> None:
    """The reducer's buckets hold the wide parameters."""
    wrapper = runner.model
    if isinstance(wrapper, PruningDistributedDataParallel):
        wrapper.rebuild()
        return
    # Until it is gone, the old reducer listens to unchanged parameters.
    del wrapper.reducer, wrapper.logger
    # MMEngine compiles by putting a function before the method.
    compiled = 'train_step' in vars(wrapper)
    runner.model = runner.wrap_model(
        runner.cfg.get('model_wrapper_cfg'), model
    )
    runner.model.training = wrapper.training
    if compiled:
        runner._maybe_compile('train_step')
