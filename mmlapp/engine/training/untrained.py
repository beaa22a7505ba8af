# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Layers that are pruned and that the optimizer of the run does not train."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from mmlapp.core import Pruner, PruningWarning


def warn_of_untrained(pruner: Pruner, optimizer: Optimizer | None) -> None:
    """Warns of groups whose weights an optimizer leaves as they are.

    It does not have them, or with a learning rate of zero, such as that of
    ``lr_mult=0``. Those that require no gradient are named when the phase
    begins.

    Args:
        pruner (Pruner): Of the model.
        optimizer (Optimizer, optional): Of the run; None says nothing.
    """
    if optimizer is None:
        return
    trained = {
        id(parameter)
        for group in optimizer.param_groups
        if _rate(group) != 0
        for parameter in group['params']
    }
    left = [
        group.name
        for group in pruner.groups
        if (weights := [w for w in group.weights() if w.requires_grad])
        and not any(id(weight) in trained for weight in weights)
    ]
    if left:
        warnings.warn(
            f'{", ".join(left)}: pruned like all others, but the optimizer of '
            'this run does not change their weights (it does not have them, '
            'or with a learning rate of 0), so that what stays cannot adapt. '
            f'Train them, or keep them whole with ignore={left}',
            PruningWarning,
            stacklevel=2,
        )


def _rate(group: Mapping[str, Any]) -> Any:
    """The rate of a group before schedulers, which may begin at zero."""
    return group.get('initial_lr', group.get('lr'))
