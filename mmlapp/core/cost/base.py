# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of a cost: what is budgeted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..choices import Choices
from ..groups import Groups
from ..trace import LayerCall


@dataclass(frozen=True)
class StoredTensor:
    """A parameter, for costs that count what is stored.

    Args:
        name (str): Qualified name.
        shape (tuple[int, ...]): Its shape.
        dims (Mapping[int, Tensor]): Labels of every dimension that may
            shrink, each ``[size]``.
    """

    name: str
    shape: tuple[int, ...]
    dims: Mapping[int, Tensor]


@dataclass(frozen=True)
class CostContext:
    """What a cost is counted from.

    Args:
        calls (Sequence[LayerCall]): Of the user's own network.
        branch_calls (Sequence[LayerCall]): Of the branches beside it.
        tensors (Sequence[StoredTensor]): Parameters of the user's own
            network, shared ones once.
        groups (Groups): Which label belongs to which prunable group.
        idle_calls (Sequence[LayerCall]): Of branches that the example does
            not run: what they store counts, and nothing else. Defaults to
            none.
    """

    calls: Sequence[LayerCall]
    branch_calls: Sequence[LayerCall]
    tensors: Sequence[StoredTensor]
    groups: Groups
    idle_calls: Sequence[LayerCall] = ()


class Cost(nn.Module, ABC):
    """A number that falls when channels go, differentiable in the gate.

    Attributes:
        dense (float): Of the user's own network, without bypasses; what
            ratios refer to.
        divisor (int): What widths must be multiples of for it to be known
            and not a guess. Defaults to 1.
    """

    dense: float
    divisor = 1

    @abstractmethod
    def forward(self, gate: Tensor) -> Tensor:
        """Returns the cost of the network.

        Args:
            gate (Tensor): Kept (1) or removed (0) channels, or anything
                between, in global order; ``[channels]``.

        Returns:
            Tensor: Scalar, float64.
        """

    def check_budget(self) -> None:
        """Refuses to be a target, if it cannot be one; else does nothing.

        Raises:
            PruningError: With the reason, and what to do.
        """

    def ratio(self, gate: Tensor) -> Tensor:
        """Returns the fraction of the dense network's cost.

        Args:
            gate (Tensor): As in :meth:`forward`.
        """
        total: Tensor = self(gate)
        return total / self.dense

    def by_layer(self, gate: Tensor) -> dict[str, float]:
        """Returns the cost of every layer by name, where that is known.

        Args:
            gate (Tensor): As in :meth:`forward`.
        """
        return {}


COSTS: Choices[Callable[..., Cost]] = Choices('cost')


def register_cost(name: str) -> Callable[[type[Cost]], type[Cost]]:
    """Adds a cost under a name that targets can use.

    Args:
        name (str): The name. The class gets a :class:`CostContext` and the
            settings of the config.

    Examples:
        >>> @register_cost('doc_channels')
        ... class Channels(Cost):
        ...     def __init__(self, context):
        ...         super().__init__()
        ...         self.dense = sum(g.size for g in context.groups.prunable)
        ...
        ...     def forward(self, gate):
        ...         return gate.double().sum()
    """

    def add(kind: type[Cost]) -> type[Cost]:
        COSTS.register(name)(kind)
        return kind

    return add
