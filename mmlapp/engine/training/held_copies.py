# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Copies of the model that hooks of a user hold, as wide as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner import Runner
from torch import Tensor, nn

from ..models.weight_names import WRAPPED
from .best_scores import EVENT
from .parts import unwrap


def warn_of_copies(runner: Runner) -> None:
    """Names hooks that hold weights of the model as it was before narrowing.

    An average of a hook's own would fail at its next update, with the shapes
    of two tensors alone. Hooks that are told of the end of the phase can make
    it anew.

    Args:
        runner (Runner): The runner, whose model and averages are narrow.
    """
    model = unwrap(runner.model).state_dict()
    for hook in runner.hooks:
        kind = type(hook)
        # A teacher of our own is to stay as it is.
        if hasattr(hook, EVENT) or kind.__module__.startswith('mmlapp.'):
            continue
        held = [n for n, v in vars(hook).items() if _differs(v, model)]
        if held:
            runner.logger.warning(
                f'Pruning: {kind.__name__}.{held[0]} has weights of the model '
                'as it was before it was narrowed, and those of now do not '
                f'fit them. If it is to follow the model, give the hook a '
                f'method {EVENT}(runner) that makes it anew, or set '
                'narrow=False in mmlapp.PruningHook'
            )


def _differs(value: Any, model: Mapping[str, Any]) -> bool:
    """Whether something has tensors of the model by name in other shapes."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if not isinstance(value, Mapping):
        return False
    for name, tensor in value.items():
        own = model.get(str(name).removeprefix(WRAPPED))
        if not isinstance(own, Tensor) or not isinstance(tensor, Tensor):
            continue
        if own.shape != tensor.shape:
            return True
    return False
