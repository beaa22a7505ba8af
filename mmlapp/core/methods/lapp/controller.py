# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How the thresholds follow the task loss and the FLOPs constraint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import PruningError
from .sensitivity import SENSITIVITIES, Margin


@dataclass(frozen=True)
class Controller:
    r"""Turns the gradients of both losses into a step of the thresholds.

    The FLOPs gradient is exact and largest where most layers meet; the task
    gradient is noise of any scale around zero, because training itself
    drives it there. What remains is its second order: the rise of the loss
    per FLOP where channels go. The best network for its FLOPs has the same
    rise in every group, so that the thresholds follow

    .. math:: \Delta t_g = -\frac{\rho}{S} \left(\alpha\,
              \log\frac{\bar q_g}{\tilde q} + \kappa\,
              \mathrm{sign}(f_g)\right)

    with the running mean of the sensitivity q (``sensitivity.py``), which is
    divided by its root mean square over the groups in each step, so that no
    single batch rules the mean; the geometric mean over the groups; the
    gradient f of the log FLOPs; the slope :math:`\kappa` of the penalty, in
    [-1, 1]; and the phase of S steps. The logarithm is clipped to [-1, 1].
    With ``order=1`` the running mean itself takes its place.

    Args:
        rate (float): How often a threshold's range fits into the way it may
            travel during the phase. Defaults to 5.
        task_weight (float): :math:`\alpha`, pull of the task loss where a
            group is e times as sensitive as the others, against that of the
            FLOPs loss. Defaults to 0.3.
        memory (float): Steps over which sensitivities are smoothed, as a
            share of the phase. Defaults to 0.1.
        order (int): Order of the expansion of the task loss, 1 or 2.
            Defaults to 2.

    Raises:
        PruningError: If an argument is negative or, except
            ``task_weight``, zero, or ``order`` is neither 1 nor 2.
    """

    rate: float = 5.0
    task_weight: float = 0.3
    memory: float = 0.1
    order: int = 2

    def __post_init__(self) -> None:
        for name in ('rate', 'memory'):
            if not getattr(self, name) > 0:
                raise PruningError(
                    f'controller {name}={getattr(self, name)}: expected a '
                    'positive number'
                )
        if not self.task_weight >= 0:
            raise PruningError(
                f'controller task_weight={self.task_weight}: expected a '
                'number not below zero'
            )
        if self.order not in SENSITIVITIES:
            raise PruningError(
                f'controller order={self.order}: expected 1 (gradient of the '
                'task loss) or 2 (its curvature)'
            )

    def step(
        self, margin: Margin, pull: float, state: Tensor, steps: int
    ) -> Tensor:
        """Returns the change of the thresholds.

        Args:
            margin (Margin): The channels around the thresholds.
            pull (float): Slope of the penalty, in [-1, 1].
            state (Tensor): Running means as :meth:`initial_state` makes
                them; updated in place, ``[groups + 1]``.
            steps (int): Length of the pruning phase.

        Returns:
            Tensor: Change of the thresholds, ``[groups]``.
        """
        keep = 1 - 1 / max(self.memory * steps, 1)
        q = SENSITIVITIES[self.order](margin)
        q = q / q.square().mean().sqrt().clamp_min(1e-30)
        sample = torch.cat([q, torch.ones_like(q[:1])])
        state.mul_(keep).add_(sample, alpha=1 - keep)
        task = self.task_weight * self.signal(state)
        return -self.rate / steps * (task + pull * margin.flops.sign())

    @staticmethod
    def initial_state(groups: int) -> Tensor:
        """Means of q and of one."""
        return torch.zeros(groups + 1)

    def signal(self, state: Tensor) -> Tensor:
        """How much more than the others a group resists, ``[groups]``.

        The last entry of the state, a running mean of ones, takes out the
        bias of a mean that started at zero.
        """
        q = state[:-1] / state[-1:].clamp_min(1e-30)
        if self.order == 1:
            return q
        top = q.amax()
        if not top > 0:
            return torch.zeros_like(q)
        log = (q / top).clamp_min(1e-3).log()
        return (log - log.mean()).clamp(-1, 1)
