# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The FLOPs constraint and the schedule of its target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PruningError


def check_target(target: float, name: str = 'target_flops') -> float:
    """Returns a FLOPs ratio in (0, 1] or raises.

    Args:
        target (float): Fraction of the dense FLOPs.
        name (str): Name of the argument, for the error.

    Raises:
        PruningError: If it lies outside.
    """
    if not 0 < target <= 1:
        raise PruningError(
            f'{name}={target}: expected a fraction of the dense FLOPs in '
            '(0, 1], such as 0.5 for half of them'
        )
    return float(target)


@dataclass(frozen=True)
class Schedule:
    """The FLOPs target over the pruning phase.

    The logarithm of the target falls linearly from the dense model's FLOPs
    to the asked ratio, which is reached after ``ramp`` of the phase; the
    rest lets the thresholds settle.

    Args:
        target (float): Fraction of the dense FLOPs, in (0, 1].
        steps (int): Length of the phase in optimizer steps.
        ramp (float): Share of the phase in which the target falls.
            Defaults to 0.8.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> round(Schedule(target=0.25, steps=100, ramp=0.5).at(25), 3)
        0.5
    """

    target: float
    steps: int
    ramp: float = 0.8

    def __post_init__(self) -> None:
        check_target(self.target, 'target')
        if self.steps < 1:
            raise PruningError(
                f'steps={self.steps}: the pruning phase needs at least one '
                'optimizer step'
            )
        if not 0 < self.ramp <= 1:
            raise PruningError(
                f'ramp={self.ramp}: expected a share of the phase in (0, 1]'
            )

    def at(self, step: int) -> float:
        """Target after a number of steps of the phase."""
        progress = min(max(step / (self.steps * self.ramp), 0.0), 1.0)
        return math.exp(progress * math.log(self.target))


def penalty(ratio: Tensor, target: float, band: float = 0.05) -> Tensor:
    r"""Distance of the FLOPs from their target, in logarithms.

    Huber's function of :math:`d = \log(r / r^*)`: :math:`d^2 / 2b` inside
    the band b and :math:`|d| - b/2` outside, so that the pull is constant
    far away and vanishes at the target.

    Args:
        ratio (Tensor): Current fraction of the dense FLOPs, scalar.
        target (float): Wanted fraction.
        band (float): Width of the quadratic part. Defaults to 0.05.

    Returns:
        Tensor: Scalar.
    """
    d = torch.log(ratio / target)
    return torch.where(
        d.abs() < band, d.square() / (2 * band), d.abs() - band / 2
    )


def penalty_slope(ratio: float, target: float, band: float = 0.05) -> float:
    """Derivative of :func:`penalty` by the log ratio, in [-1, 1]."""
    return min(max(math.log(ratio / target) / band, -1.0), 1.0)
