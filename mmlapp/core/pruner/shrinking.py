# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels that are condemned shrink before they are gone."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..choices import Choices
from ..errors import PruningError, PruningWarning
from ..numbers import check_number
from ..progress import Progress

# A gate below it is zero: what is left of a channel no longer counts.
GONE = 0.01


class Shrinking(ABC):
    """How the gate of a condemned channel falls from one to zero.

    It reads the gate and the progress of the phase alone, so that a resumed
    phase goes on bit for bit.

    Attributes:
        at_once (bool): Whether it does so in a single step.
    """

    at_once = False

    @abstractmethod
    def left(self, gate: Tensor, progress: Progress) -> Tensor:
        """Returns what a step of the phase leaves of condemned channels.

        Args:
            gate (Tensor): Before the step, in [0, 1], ``[channels]``.
            progress (Progress): Of the phase; it counts the step.

        Returns:
            Tensor: In [0, 1), ``[channels]``.
        """

    @abstractmethod
    def gone_after(self, begin: int, steps: int) -> float:
        """Returns the step after which a channel is gone.

        Args:
            begin (int): Step of the phase before which it was whole.
            steps (int): Length of the phase.
        """


SHRINKS: Choices[type[Shrinking]] = Choices('shrink', Shrinking)
# As users say it: equal steps, a name, one with settings, or what is made.
Shrink = int | str | Mapping[str, Any] | Shrinking


@SHRINKS.register('linear')
class Linear(Shrinking):
    """Equal steps, as those of the weights in HESSO.

    Args:
        steps (int): How many from 1 to 0. Defaults to 1: at once.

    Raises:
        PruningError: If it is no whole number from 1 on.

    Examples:
        >>> gate, progress = torch.ones(1), Progress()
        >>> for _ in range(3):
        ...     gate = Linear(steps=4).left(gate, progress)
        >>> gate
        tensor([0.2500])
    """

    def __init__(self, steps: int = 1) -> None:
        check_number('shrink', steps, least=1, whole=True)
        self.steps, self.at_once = steps, steps == 1

    def left(self, gate: Tensor, progress: Progress) -> Tensor:
        """Returns 1 / steps less than before."""
        # In whole steps, so that no rounding piles up: 3/4 is 3 of 4, then 2.
        return ((gate * self.steps).round() - 1).clamp_min(0) / self.steps

    def gone_after(self, begin: int, steps: int) -> float:
        """Returns ``begin`` plus the steps."""
        return begin + self.steps


@SHRINKS.register('growing')
class Growing(Shrinking):
    r"""A decay that grows with the phase (after OCSPruner, 2501.13439).

    After step t of the phase the gate falls by the factor
    :math:`e^{-2 \ln(100)\, t / T^2}`, with T the steps in which one that is
    condemned from the beginning falls to a hundredth; there it is gone.

    Args:
        gone (float): :math:`T` as a share of the phase, in (0, 1]. Defaults
            to 0.5.

    Raises:
        PruningError: If ``gone`` lies outside its range.
    """

    def __init__(self, gone: float = 0.5) -> None:
        check_number('shrink growing gone', gone, above=0, most=1)
        self.gone = gone

    def left(self, gate: Tensor, progress: Progress) -> Tensor:
        """Returns the gate times the factor of this step."""
        # The sum of t over the first T steps is T (T + 1) / 2, so that all
        # factors together make just less than a hundredth.
        last = self.gone * progress.steps
        rate = -2 * math.log(GONE) * progress.done / last**2
        left = gate * math.exp(-rate)
        return torch.where(left < GONE, 0, left)

    def gone_after(self, begin: int, steps: int) -> float:
        """Returns t with t^2 - begin^2 = T^2."""
        # The sum of the steps from begin to t is about half of that.
        return math.hypot(begin, self.gone * steps)


def shrinking(choice: Shrink) -> Shrinking:
    """Returns how condemned channels shrink.

    Args:
        choice (int, str, Mapping or Shrinking): Equal steps, a registered
            name, a dictionary of it as ``type`` and settings, or the thing
            itself.

    Raises:
        PruningError: If it is none of that, or a number below 1.

    Examples:
        >>> shrinking(4).gone_after(10, 100)
        14
    """
    if isinstance(choice, (str, Mapping, Shrinking)):
        built: Shrinking = SHRINKS.build(choice)
        return built
    return Linear(choice)


def warn_of_late_ends(choice: Shrink, ramp: float, steps: int) -> None:
    """Warns if what goes last is cut before its gate is zero.

    Args:
        choice (int, str, Mapping or Shrinking): See :func:`shrinking`.
        ramp (float): Share of the phase after which the method asks for the
            whole target.
        steps (int): Length of the phase.
    """
    how, begin = shrinking(choice), round(ramp * steps)
    if not how.at_once and how.gone_after(begin, steps) > steps:
        warnings.warn(
            f'shrink={choice!r}: only {steps - begin} of {steps} steps of '
            'the phase are left when the target is reached, so that what goes '
            'last is cut at the end, in the middle of its way. Make the phase '
            'longer, or let channels shrink in fewer steps',
            PruningWarning,
            stacklevel=3,
        )


def check_hard(name: str, value: Any, decided: Tensor) -> None:
    """Refuses an option of methods that decide between 0 and 1 alone.

    Args:
        name (str): Of the option.
        value (Any): What it was set to.
        decided (Tensor): What the method decided, ``[channels]``.

    Raises:
        PruningError: If the method decides on something in between.
    """
    if not ((decided == 0) | (decided == 1)).all():
        raise PruningError(
            f'{name}={value!r}: the method sets gates between 0 and 1 itself. '
            f'Leave {name} out'
        )


def shrunk(
    gate: Tensor, decided: Tensor, how: Shrinking, progress: Progress
) -> Tensor:
    """Returns the gate after a step in which condemned channels shrink.

    Args:
        gate (Tensor): Before the step, in [0, 1], ``[channels]``.
        decided (Tensor): What the method keeps (1) and condemns (0),
            ``[channels]``.
        how (Shrinking): How gates fall.
        progress (Progress): Of the phase; it counts the step.

    Returns:
        Tensor: 1 where kept, elsewhere what is left.

    Examples:
        >>> gate, decided = torch.ones(2), torch.tensor([1.0, 0.0])
        >>> for _ in range(2):
        ...     gate = shrunk(gate, decided, Linear(4), Progress())
        >>> gate
        tensor([1.0000, 0.5000])
    """
    left = how.left(gate.detach(), progress)
    return torch.where(decided == 1, decided.to(left.dtype), left)
