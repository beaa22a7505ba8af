# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How the thresholds follow the task loss and the constraint on the cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import PruningError
from ...numbers import check_number
from ..channel_costs import channel_costs
from .constraint import common_shift
from .sensitivity import SENSITIVITIES, Margin
from .update import UPDATES, Update

if TYPE_CHECKING:
    from ...pruner import Pruner
    from .method import LAPP


@UPDATES.register('balance')
class Balance(Update):
    r"""A controller: the task loss moves the groups, the constraint all.

    It asks for nothing but the gradient of the task loss by the gate.
    The gradient of the cost is exact and largest where most layers meet;
    that of the task is noise of any scale around zero, because training
    itself drives it there. What remains is its size: how much the loss
    changes per unit of cost where channels go. The best network for its
    cost has as much in every group, so that the thresholds follow

    .. math:: \Delta t_g = -\frac{\rho \alpha}{S}
              \log\frac{\bar q_g}{\tilde q} + c

    with the running mean of the sensitivity q (``sensitivity.py``), which is
    divided by its root mean square over the groups in each step, so that no
    single batch rules the mean; the geometric mean over the groups; and the
    phase of S steps. The logarithm is clipped to [-1, 1]. The constraint
    says c, one for all groups that cost something: the cost of the network
    is then the one that the schedule wants after this step, as near as whole
    channels come (``constraint.py``). With ``sensitivity='gradient'`` the
    running mean itself takes the place of the logarithm.

    Args:
        rate (float): How often a threshold's range fits into the way it may
            travel during the phase for a ``task_weight`` of one. Defaults to
            5.
        task_weight (float): :math:`\alpha`, pull of the task loss where a
            group is e times as sensitive as the others. Defaults to 0.3.
        memory (float): Steps over which sensitivities are smoothed, as a
            share of the phase. Defaults to 0.1.
        sensitivity (str): What the gradient p of the task loss by a channel
            says of its harm: ``magnitude``, its absolute value,
            ``curvature``, p squared, or ``gradient``, p itself with its sign.
            Defaults to ``magnitude``.

    Raises:
        PruningError: If an argument is negative or, except
            ``task_weight``, zero, or ``sensitivity`` is unknown.
    """

    state: Tensor

    def __init__(
        self,
        rate: float = 5.0,
        task_weight: float = 0.3,
        memory: float = 0.1,
        sensitivity: str = 'magnitude',
    ) -> None:
        super().__init__()
        check_number('update balance rate', rate, above=0)
        check_number('update balance memory', memory, above=0)
        check_number('update balance task_weight', task_weight, least=0)
        if sensitivity not in SENSITIVITIES:
            raise PruningError(
                f'update balance sensitivity={sensitivity!r}: expected one '
                f'of {", ".join(SENSITIVITIES)}'
            )
        self.rate, self.task_weight = rate, task_weight
        self.memory, self.sensitivity = memory, sensitivity

    def setup(self, lapp: LAPP) -> None:
        """Makes the running means of q, and of one; ``[groups + 1]``."""
        self.register_buffer('state', torch.zeros(len(lapp.threshold) + 1))

    def begin(self) -> None:
        """Starts the running means anew."""
        self.state.zero_()

    def move(
        self, lapp: LAPP, pruner: Pruner, bounds: tuple[Tensor, Tensor]
    ) -> None:
        """Changes the thresholds by :meth:`change`, then all alike."""
        assert pruner.gradient is not None
        dear = channel_costs(pruner)
        # d log F / dt_g = -sum_i h_i d log F / dm_i over the channels of g.
        direction = pruner.parts.sum(-lapp.slope * dear)
        margin = Margin(
            pruner.gradient, lapp.slope, pruner.mask, pruner.parts, direction
        )
        moved = lapp.threshold + self.change(margin, pruner.progress.steps)
        # Who was not heard stays, whatever the others do.
        moved = torch.where(lapp.heard, moved, lapp.threshold)
        free = lapp.heard & (pruner.parts.sum(dear.abs()) > 0)
        lapp.threshold.copy_(common_shift(pruner, moved, bounds, free))

    def change(self, margin: Margin, steps: int) -> Tensor:
        """Returns what the task loss changes.

        Args:
            margin (Margin): The channels around the thresholds.
            steps (int): Length of the pruning phase.

        Returns:
            Tensor: Change of the thresholds, ``[groups]``.
        """
        # Running mean over `memory` of the phase, at least over one step.
        keep = 1 - 1 / max(self.memory * steps, 1)
        q = SENSITIVITIES[self.sensitivity](margin)
        # Gradients have heavy tails, their squares more: steps weigh alike.
        q = q / q.square().mean().sqrt().clamp_min(1e-30)
        # [groups + 1]: the one at the end is averaged like the others.
        sample = torch.cat([q, torch.ones_like(q[:1])])
        self.state.mul_(keep).add_(sample, alpha=1 - keep)
        # More harm per unit of cost lowers a threshold. As |signal| <= 1 but
        # with signs, all steps together move it by at most rate * task_weight.
        return -self.rate * self.task_weight / steps * self.signal()

    def signal(self) -> Tensor:
        """How much more than the others a group resists, ``[groups]``.

        The last entry of the state, a running mean of ones, takes out the
        bias of a mean that started at zero.
        """
        # After n steps from zero the last entry is 1 - keep^n.
        q = self.state[:-1] / self.state[-1:].clamp_min(1e-30)
        if self.sensitivity == 'gradient':
            return q
        top = q.amax()
        # Dividing by the largest cancels in the difference of logarithms; it
        # makes the lower bound relative, a thousandth of the largest.
        # log(q / geometric mean) = log q - mean(log q).
        log = (q / top).clamp_min(1e-3).log()
        # Who never said anything must not move the mean of the others.
        said = q > 0
        mean = torch.where(said, log, 0).sum() / said.sum()
        # Nobody has said anything: q / top is no number then.
        return torch.where(top > 0, (log - mean).clamp(-1, 1), 0)
