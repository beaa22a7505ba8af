# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A prunable model warns where a run trains it and nothing prunes it."""

from __future__ import annotations

import warnings
from typing import Any

from mmengine.logging import MessageHub
from torch import nn

from mmlapp.core import PruningWarning
from mmlapp.core.hiding import pruner_within
from mmlapp.core.progress import Phase

from .modes import TRIAL, mode_of

NO_HOOK = (
    "the run has no dict(type='mmlapp.PruningHook') in custom_hooks; a config "
    'that sets custom_hooks replaces those of its _base_'
)


def expect_hook(model: nn.Module, expected: bool) -> None:
    """Lets a model warn if a run of MMEngine trains it without our hook.

    Args:
        model (nn.Module): The model, prunable or not.
        expected (bool): Whether it still expects ``PruningHook``.
    """
    hooks = model._forward_pre_hooks
    for key in [k for k, hook in hooks.items() if hook is _warn_alone]:
        del hooks[key]
        model._forward_pre_hooks_with_kwargs.pop(key, None)
    if expected:
        handle = model.register_forward_pre_hook(_warn_alone, with_kwargs=True)
        model.pruner.hook_ids.append(handle.id)  # type: ignore[union-attr]


def _warn_alone(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Warns once, before the first step of a run that will not prune."""
    if not module.training or mode_of(args, kwargs) != 'loss':
        return
    # `RuntimeInfoHook` notes it when the training of a runner begins.
    hub = MessageHub.get_current_instance()
    if hub.get_info('max_iters') is None or hub.get_info(TRIAL):
        return
    # Once: a hook that takes itself off.
    expect_hook(module, False)
    pruner: Any = pruner_within(module)
    if pruner.phase == Phase.DENSE:
        warnings.warn(
            f'{type(module).__name__} is prunable, and nothing prunes it: '
            f'{NO_HOOK}',
            PruningWarning,
            stacklevel=2,
        )
