# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are numbers: of a run that is saved, or of a file."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from mmlapp.core import PruningError

# Of a run that goes on, and of a checkpoint that was loaded.
DIVERGED = (
    'training has diverged, and no checkpoint of it is written. Lower the '
    'learning rate and resume from the last checkpoint'
)
LOADED = (
    'the training of the checkpoint had diverged. Give an earlier checkpoint'
)


def infinite_buffers(model: nn.Module) -> frozenset[str]:
    """Returns the buffers that are infinite by intention, by name.

    Masks of attention hold negative infinity, for instance. Asked before
    training begins: what becomes infinite later has diverged.

    Args:
        model (nn.Module): The model.
    """
    buffers = model.named_buffers()
    return frozenset(name for name, value in buffers if value.isinf().any())


def check_finite(
    model: nn.Module,
    infinite: Collection[str] = (),
    title: str = '',
    reason: str = DIVERGED,
) -> None:
    """Refuses to go on with weights that are no numbers.

    Looks at what a state dict has: parameters, and buffers such as running
    statistics.

    Args:
        model (nn.Module): The model.
        infinite (Collection[str]): Buffers that may be infinite, but no
            less a number, see :func:`infinite_buffers`. Defaults to none.
        title (str): What the model is, for the error text. Defaults to
            nothing: that of the run.
        reason (str): What that means, and the remedy. Defaults to those of
            a run that would be saved.

    Raises:
        PruningError: With the first parameter or buffer that is not finite.
    """
    for name, value in model.state_dict().items():
        # Counters and other whole numbers are always finite.
        wrong = value.isnan() if name in infinite else ~value.isfinite()
        if wrong.any():
            raise PruningError(f'{title}{name} is not finite: {reason}')
