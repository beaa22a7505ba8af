# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the task loss loses with each channel, as batches go by."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Harm(nn.Module):
    r"""Running mean of the harm of every channel, to second order.

    When channel i goes, the loss rises by about :math:`p_i^2 / 2`, with the
    gradient :math:`p_i` of the task loss by its gate and Fisher's
    approximation of the curvature (arXiv 1906.10771). One batch says little;
    the mean is over a share of the phase.

    Args:
        channels (int): Of all groups.
        memory (float): Steps over which the mean runs, as a share of the
            phase.
    """

    state: Tensor

    def __init__(self, channels: int, memory: float) -> None:
        super().__init__()
        self.memory = memory
        # Running means of p^2, and of one; [channels + 1].
        self.register_buffer('state', torch.zeros(channels + 1))
        # Whether it is known that something was noted.
        self._noted = False

    def begin(self) -> None:
        """Forgets what a former phase left."""
        self.state.zero_()
        self._noted = False

    @torch.no_grad()
    def note(self, gradient: Tensor, usable: Tensor, steps: int) -> None:
        """Takes in one more step.

        Args:
            gradient (Tensor): Of the task loss by the gate, ``[channels]``.
            usable (Tensor): Whether it says anything, bool scalar.
            steps (int): Length of the phase.
        """
        # A memory of n steps: m <- (1 - 1/n) m + p^2 / n.
        keep = 1 - 1 / max(self.memory * steps, 1)
        sample = torch.cat([gradient.square(), torch.ones_like(gradient[:1])])
        state = self.state.mul(keep).add(sample, alpha=1 - keep)
        self.state.copy_(torch.where(usable, state, self.state))

    def mean(self) -> Tensor | None:
        """Returns the mean of :math:`p^2`, ``[channels]``; at first None."""
        # The mean of ones, 1 - keep^n after n steps, takes out the bias of
        # one that started at zero.
        weight = self.state[-1]
        # A GPU is asked only until there is something.
        self._noted = self._noted or float(weight) > 0
        if not self._noted:
            return None
        return self.state[:-1] / weight.clamp_min(1e-30)
