# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels that are condemned shrink before they are gone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..errors import PruningError, PruningWarning
from ..methods.base import Method
from ..methods.schedule import Schedule
from ..numbers import check_number


def check_one_shrinks(steps: int, method: Method) -> None:
    """Refuses two ways of shrinking at once.

    Args:
        steps (int): Steps over which a gate falls.
        method (Method): Who decides.

    Raises:
        PruningError: If the method has a way of its own.
    """
    if steps > 1 and method.shrinks:
        raise PruningError(
            f'shrink_steps={steps}: method {type(method).__name__} shrinks '
            'channels itself. Leave shrink_steps out'
        )


def check_shrink_steps(steps: int) -> int:
    """Returns the steps over which a gate falls.

    Args:
        steps (int): The number; 1 is at once.

    Raises:
        PruningError: If it is no whole number from 1 on.
    """
    checked: int = check_number('shrink_steps', steps, least=1, whole=True)
    return checked


def warn_of_late_ends(shrink_steps: int, steps: int) -> None:
    """Warns if what goes last is cut before its gate is zero.

    Args:
        shrink_steps (int): Steps over which a gate falls.
        steps (int): Length of the phase.
    """
    # The schedule reaches its target at the end of its ramp.
    rest = steps - round(Schedule.ramp * steps)
    if shrink_steps > max(rest, 1):
        warnings.warn(
            f'shrink_steps={shrink_steps}: only {rest} of {steps} steps of '
            'the phase are left when the target is reached, so that what goes '
            'last is cut at the end, in the middle of its way. Make the phase '
            'longer, or shrink_steps smaller',
            PruningWarning,
            stacklevel=3,
        )


def check_hard(name: str, value: float, decided: Tensor) -> None:
    """Refuses an option of methods that decide between 0 and 1 alone.

    Args:
        name (str): Of the option.
        value (float): What it was set to.
        decided (Tensor): What the method decided, ``[channels]``.

    Raises:
        PruningError: If the method decides on something in between.
    """
    if not ((decided == 0) | (decided == 1)).all():
        raise PruningError(
            f'{name}={value}: the method sets gates between 0 and 1 itself. '
            f'Leave {name} out'
        )


def shrunk(gate: Tensor, decided: Tensor, steps: int) -> Tensor:
    """Returns the gate after a step in which condemned channels shrink.

    Args:
        gate (Tensor): Before the step, in [0, 1], ``[channels]``.
        decided (Tensor): What the method keeps (1) and condemns (0),
            ``[channels]``.
        steps (int): Steps from 1 to 0.

    Returns:
        Tensor: 1 where kept, elsewhere by 1 / steps less than before.

    Raises:
        PruningError: If the method decides on something between 0 and 1.

    Examples:
        >>> gate, decided = torch.ones(2), torch.tensor([1.0, 0.0])
        >>> gate = shrunk(gate, decided, steps=4)
        >>> shrunk(gate, decided, steps=4)
        tensor([1.0000, 0.5000])
    """
    if steps == 1:
        return decided
    check_hard('shrink_steps', steps, decided)
    # In whole steps, so that no rounding piles up: 3/4 is 3 of 4, then 2.
    left = ((gate * steps).round() - 1).clamp_min(0)
    return torch.maximum(decided.to(gate.dtype), left / steps)
