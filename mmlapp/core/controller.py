# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How the thresholds follow the task loss and the FLOPs constraint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import PruningError


@dataclass(frozen=True)
class Controller:
    r"""Turns the gradients of both losses into a step of the thresholds.

    Added as they are, one gradient drowns the other: the task gradient of a
    step is noisy and of any scale, the FLOPs gradient is exact and largest
    where most layers meet. Dividing both by the size of the FLOPs gradient
    leaves the stationary points where they are and gives every group the
    same pull; what is left to tell groups apart is their task gradient per
    FLOP, smoothed and put on the scale of its noise:

    .. math:: \Delta t_g = -\frac{\rho}{S} \left(\alpha\,
              \frac{\bar q_g}{\sqrt v} + \kappa\,
              \mathrm{sign}(f_g)\right), \quad
              q_g = g^{task}_g / |f_g|

    with the gradient f of the log FLOPs, the running mean of q, the running
    mean v of its square over all groups, the phase of S steps and the slope
    :math:`\kappa` of the penalty, in [-1, 1].

    Args:
        rate (float): How often a threshold's range fits into the way it may
            travel during the phase. Defaults to 5.
        task_weight (float): :math:`\alpha`, pull of the task loss where its
            gradient is as large as its noise, against that of the FLOPs
            loss. Defaults to 0.1.
        memory (float): Steps over which gradients are smoothed, as a share
            of the phase. Defaults to 0.1.

    Raises:
        PruningError: If an argument is negative or, except
            ``task_weight``, zero.
    """

    rate: float = 5.0
    task_weight: float = 0.1
    memory: float = 0.1

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

    def step(
        self,
        task: Tensor,
        flops: Tensor,
        pull: float,
        state: Tensor,
        steps: int,
    ) -> Tensor:
        """Returns the change of the thresholds.

        Args:
            task (Tensor): Gradient of the task loss, ``[groups]``.
            flops (Tensor): Gradient of the log FLOPs, ``[groups]``.
            pull (float): Slope of the penalty, in [-1, 1].
            state (Tensor): Running means as :meth:`initial_state` makes
                them; updated in place, ``[groups + 2]``.
            steps (int): Length of the pruning phase.

        Returns:
            Tensor: Change of the thresholds, ``[groups]``.
        """
        keep = 1 - 1 / max(self.memory * steps, 1)
        size = flops.abs()
        per_flop = task / size.clamp_min(1e-3 * float(size.amax()) + 1e-30)
        sample = torch.cat(
            [
                per_flop,
                per_flop.square().mean()[None],
                torch.ones_like(per_flop[:1]),
            ]
        )
        state.mul_(keep).add_(sample, alpha=1 - keep)
        change = self.task_weight * self.signal(state) + pull * flops.sign()
        return -self.rate / steps * change

    @staticmethod
    def initial_state(groups: int) -> Tensor:
        """Means of q, of its square over the groups, and of one."""
        return torch.zeros(groups + 2)

    @staticmethod
    def signal(state: Tensor) -> Tensor:
        """Smoothed task gradient per FLOP over its noise, ``[groups]``.

        The last entry of the state, a running mean of ones, takes out the
        bias of a mean that started at zero.
        """
        means = state[:-1] / state[-1:].clamp_min(1e-30)
        return means[:-1] / means[-1:].sqrt().clamp_min(1e-30)
