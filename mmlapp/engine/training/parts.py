# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a run: the bare model, its pruner, its optimizer, its plan."""

from __future__ import annotations

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from mmlapp.core import ChannelPlan, Pruner, PruningError
from mmlapp.core.hiding import show_again

from ..models.plans import plans_of


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside wrappers for distributed training or TTA.

    Args:
        model (nn.Module): The model of a runner.
    """
    # Wrappers nest: test-time augmentation around DDP around the model.
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module  # type: ignore[assignment]
    return model


def own_pruner(model: nn.Module) -> Pruner | None:
    """Returns what prunes a model; None if nothing does.

    Args:
        model (nn.Module): The model, wrapped or not.
    """
    inner = unwrap(model)
    # Ctrl-C in a forward may have left it hidden.
    show_again(inner)
    pruner = getattr(inner, 'pruner', None)
    return pruner if isinstance(pruner, Pruner) else None


def find_pruner(model: nn.Module) -> Pruner:
    """Returns what prunes a model.

    Args:
        model (nn.Module): The model, wrapped or not.

    Raises:
        PruningError: If it has none.
    """
    inner, pruner = unwrap(model), own_pruner(model)
    if pruner is None and plans_of(inner):
        raise PruningError(
            f'{type(inner).__name__} is narrow already, and not by '
            'mmlapp.PruningHook. To train it, name its weights in load_from, '
            'or leave the hook out of a run of mmlapp.DeployedModel; to prune '
            'it further, make that the architecture of mmlapp.PrunableModel'
        )
    if pruner is None:
        raise PruningError(
            f'{type(inner).__name__} has no pruner: build it with '
            "model = dict(type='mmlapp.PrunableModel', architecture=...)"
        )
    return pruner


def run_optimizer(runner: Runner) -> Optimizer | None:
    """Returns the optimizer of a run; None if there is none yet.

    Args:
        runner (Runner): The runner.
    """
    wrapper = getattr(runner, 'optim_wrapper', None)
    if not isinstance(wrapper, OptimWrapper):
        return None
    # An OptimWrapperDict has several, and does not step the pruner.
    return getattr(wrapper, 'optimizer', None)


def narrowed_plan(runner: Runner) -> ChannelPlan | None:
    """Returns the plan of a run whose model is narrow; None before that.

    Args:
        runner (Runner): The runner; its :class:`PruningHook` is asked.
    """
    plans = (getattr(hook, 'plan', None) for hook in runner.hooks)
    return next((p for p in plans if isinstance(p, ChannelPlan)), None)
