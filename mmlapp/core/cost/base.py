# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of a cost: what is budgeted."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Cost(nn.Module, ABC):
    """A number that falls when channels go, differentiable in the gate.

    Attributes:
        dense (float): Of the user's own network, without bypasses; what
            ratios refer to.
    """

    dense: float

    @abstractmethod
    def forward(self, gate: Tensor) -> Tensor:
        """Returns the cost of the network.

        Args:
            gate (Tensor): Kept (1) or removed (0) channels, or anything
                between, in global order; ``[channels]``.

        Returns:
            Tensor: Scalar, float64.
        """

    def ratio(self, gate: Tensor) -> Tensor:
        """Returns the fraction of the dense network's cost.

        Args:
            gate (Tensor): As in :meth:`forward`.
        """
        total: Tensor = self(gate)
        return total / self.dense
