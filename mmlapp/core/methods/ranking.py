# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One ranking of all channels of a network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import PruningError
from ..numbers import check_number
from ..score.normalise import normalised
from .base import register_method
from .channel_costs import COST_TERMS
from .fixed_order import FixedOrder
from .schedule import Schedule

if TYPE_CHECKING:
    from ..pruner import Pruner


@register_method('ranking')
class Ranking(FixedOrder):
    r"""Keeps what ranks highest among the channels of all groups.

    The rank is the score, normalised as the pruner was asked to, alone or
    with a term of the cost. In each of its steps the network falls to where
    the schedule wants it; between them the kept channels stay.

    With ``score='taylor'``, ``normalisation='none'`` and ``cost='divide'``
    the first channel to go is the one with the least rise of the task loss
    per unit of cost, :math:`p_i^2 / c_i`.

    Args:
        steps (int, optional): How often channels are ranked, evenly until
            the schedule reaches its target. Defaults to None: after every
            step of the optimizer, to the end of the phase.
        cost (str, optional): Term of the cost: ``divide``, importance per
            cost of a channel beside those that live; ``divide_all``, per
            product of all costs; or ``softmax``, that of OCSPruner. Defaults
            to None: importance alone.

    Raises:
        PruningError: If ``steps`` is no whole number from 1 on, or ``cost``
            is unknown.

    Examples:
        >>> from mmlapp.core import attach
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3)
        ... )
        >>> pruner = attach(
        ...     net,
        ...     torch.rand(1, 3, 9, 9),
        ...     method=dict(type='ranking', steps=2),
        ... )
        >>> pruner.begin({'flops': 0.25}, steps=10)
        >>> for _ in range(4):
        ...     pruner.step()
        >>> pruner.keep_ratios()
        {'0': 0.5}
    """

    order: Tensor
    # What error texts call the method; `one_cycle` inherits the rest.
    name = 'ranking'

    def __init__(
        self, steps: int | None = None, cost: str | None = None
    ) -> None:
        super().__init__()
        if steps is not None:
            said = f'method {self.name} steps'
            check_number(said, steps, least=1, whole=True)
        self.steps, self.cost = steps, cost
        self.term = None if cost is None else COST_TERMS[cost]

    def setup(self, pruner: Pruner) -> None:
        """Makes the order that was last found."""
        if self.term is not None:
            # What every score is made of, whatever it is.
            scores = normalised(pruner.scorer.normalise, torch.arange(3.0))
            refuse_negative(f'method cost={self.cost!r}', scores)
        self.register_buffer('order', torch.zeros_like(pruner.scores))

    def check(self, steps: int) -> None:
        """Refuses to rank more often than the phase has steps for it."""
        if self.steps is not None and self.steps > (most := _ramp(steps)):
            raise PruningError(
                f'method {self.name} steps={self.steps}: a phase of {steps} '
                f'steps reaches its target after {most}, and ranks at most '
                'as often. Make the phase longer, or steps smaller'
            )

    def begin(self, pruner: Pruner) -> Tensor:
        """Ranks the dense network, which stays whole so far."""
        self.order.copy_(self.rank(pruner))
        return super().begin(pruner)

    def step(self, pruner: Pruner) -> Tensor:
        """Ranks, and cuts where the schedule wants it, if it is time to."""
        if not self.is_due(pruner):
            return pruner.mask.to(pruner.gate.dtype)
        self.order.copy_(self.rank(pruner))
        return super().step(pruner)

    def ranking(self, pruner: Pruner) -> Tensor:
        """Returns the last order, by which the kept channels were found."""
        return self.order

    def is_due(self, pruner: Pruner) -> bool:
        """Whether channels are ranked after this step.

        Args:
            pruner (Pruner): Of the network; its progress counts the step.
        """
        if self.steps is None:
            return True
        done, ramp = pruner.progress.done, _ramp(pruner.progress.steps)
        # Ranking k of n comes at step k * ramp / n, rounded up: n = 2 of a
        # ramp of 8 at 4 and 8. It lies in (done - 1, done] if n done / ramp
        # has passed a whole number.
        passed = done * self.steps // ramp - (done - 1) * self.steps // ramp
        return done <= ramp and passed > 0

    def rank(self, pruner: Pruner) -> Tensor:
        """Returns the importance of every channel, ``[channels]``.

        Args:
            pruner (Pruner): Of the network.

        Raises:
            PruningError: If scores are negative that a cost is to weigh.
        """
        if self.term is None:
            return pruner.scores
        refuse_negative(f'method cost={self.cost!r}', pruner.scores)
        return self.term(pruner, pruner.scores)


def refuse_negative(name: str, scores: Tensor) -> None:
    """Refuses scores that a factor would turn around.

    Args:
        name (str): Of the setting that multiplies them.
        scores (Tensor): Of any shape.

    Raises:
        PruningError: If there are some below zero.
    """
    if (scores < 0).any():
        raise PruningError(
            f'{name}: there are scores below zero, which a factor turns '
            "around. Choose the normalisation 'none', 'mean' or 'rank' of a "
            'score that is not negative'
        )


def _ramp(steps: int) -> int:
    """Steps of a phase until the schedule reaches its target, rounded up."""
    # Without the last bits: 0.8 * 35 is a little more than 28.
    return math.ceil(steps * Schedule.ramp - 1e-9)
