# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The constraint on a cost and the schedule of its target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..errors import PruningError
from ..numbers import check_number

# Where the penalty of a cost is quadratic, in logarithms: 5 % of its target.
BAND = 0.05


def check_targets(
    target: Mapping[str, float], costs: Sequence[str] | None = None
) -> dict[str, float]:
    """Returns the asked fractions of the dense network's costs or raises.

    Args:
        target (Mapping[str, float]): Fraction by name of the cost, in
            (0, 1].
        costs (Sequence[str], optional): The costs that there are. Defaults
            to None: names are not checked.

    Raises:
        PruningError: If there is none, a name is unknown or a fraction lies
            outside.

    Examples:
        >>> check_targets({'flops': 0.5}, ['flops', 'parameters'])
        {'flops': 0.5}
    """
    if not isinstance(target, Mapping) or not target:
        raise PruningError(
            f'target={target!r}: expected the fraction of each cost by its '
            'name, such as dict(flops=0.5)'
        )
    asked: Mapping[str, Any] = target  # whatever a config says
    for name, value in asked.items():
        if costs is not None and name not in costs:
            raise PruningError(
                f'target {name}={value}: this network has the costs '
                f'{", ".join(costs)}; others are added with costs=...'
            )
        if (
            isinstance(value, bool)
            or not isinstance(value, Real)
            or not 0 < float(value) <= 1
        ):
            raise PruningError(
                f'target {name}={value!r}: expected a fraction of the dense '
                'network in (0, 1], such as 0.5 for half of it'
            )
    return {name: float(value) for name, value in target.items()}


@dataclass(frozen=True)
class Schedule:
    """The target of one cost over the pruning phase.

    The logarithm of the target falls linearly from the dense model
    to the asked ratio, which is reached after ``ramp`` of the phase; the
    rest lets the method settle.

    Args:
        target (float): Fraction of the dense cost, in (0, 1].
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
        check_targets({'cost': self.target})
        check_number('steps', self.steps, least=1, whole=True)
        if not 0 < self.ramp <= 1:
            raise PruningError(
                f'ramp={self.ramp}: expected a share of the phase in (0, 1]'
            )

    def at(self, step: int) -> float:
        """Target after a number of steps of the phase."""
        # target^(share of the ramp): equal steps of the logarithm.
        progress = min(max(step / (self.steps * self.ramp), 0.0), 1.0)
        return math.exp(progress * math.log(self.target))


def penalty(ratio: Tensor, target: float) -> Tensor:
    r"""Distance of a cost from its target, in logarithms.

    Huber's function of :math:`d = \log(r / r^*)`: :math:`d^2 / 2b` inside
    the band b = 0.05 and :math:`|d| - b/2` outside, so that the pull is
    constant far away and vanishes at the target.

    Args:
        ratio (Tensor): Current fraction of the dense cost, scalar.
        target (float): Wanted fraction.

    Returns:
        Tensor: Scalar.
    """
    # Values and slopes of both pieces meet at |d| = b: d^2 / 2b = b / 2 and
    # d / b = 1.
    d = torch.log(ratio / target)
    return torch.where(
        d.abs() < BAND, d.square() / (2 * BAND), d.abs() - BAND / 2
    )
