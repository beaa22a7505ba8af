# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of a branch: what runs beside a thin layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..choices import Choices
from ..errors import PruningError
from ..heirs import Heir
from ..trace import LayerCall

# Labels of the input and of the output channels of a layer, each [size].
Ends = tuple[Tensor, Tensor]


class Branch(nn.Module, ABC):
    """A module beside a layer, :math:`y = W(x) + B(x)`.

    It owns what it costs, where it is masked, how it is narrowed and whether
    it merges into its layer. The constructor gets the layer and settings
    from the config, and raises :class:`LayerRefusedError` with the reason
    for a layer that can have none.

    Most branches are convolutions, perhaps with a norm: see
    :class:`ConvBranch`.

    Attributes:
        merge (bool): Whether it becomes part of its layer at deployment.
            Budgets count what is deployed, so it is free then.
    """

    merge: bool = False

    @abstractmethod
    def calls(
        self, name: str, call: LayerCall, ends: Ends | None
    ) -> list[LayerCall]:
        """Returns its own calls at one call of its layer, for costs.

        Of one that is merged what the layer gets in addition, such as a bias.

        Args:
            name (str): Name for the tables.
            call (LayerCall): The call of the layer.
            ends (tuple, optional): Channel nodes at its input and output;
                None if the branch keeps its full width.
        """

    @abstractmethod
    def gated(self) -> Iterator[tuple[str, str]]:
        """Yields the parameters that emit its output channels.

        Their first dimension is multiplied by the gate.

        Yields:
            tuple[str, str]: Path of the module in the branch, empty for the
            branch itself, and name of the parameter.
        """

    @abstractmethod
    def narrow(
        self, kept_in: Tensor, kept_out: Tensor
    ) -> tuple[Branch | None, Mapping[nn.Parameter, Sequence[Heir]]]:
        """Narrows the branch to what lives of its layer's channels.

        Args:
            kept_in (Tensor): Input channels that live, bool ``[in]``.
            kept_out (Tensor): Output channels that live, bool ``[out]``.

        Returns:
            tuple: The branch that takes its place, or None if nothing is
            left of it; and what took the place of every parameter.
        """

    def start(self) -> None:
        """Called when all weights are set: before the first forward.

        Restores what no initialiser may choose. Defaults to nothing.
        """

    def merge_into(self, layer: nn.Module) -> None:
        """Becomes part of a layer's weights, with equal outputs.

        Args:
            layer (nn.Module): The layer that it runs beside.

        Raises:
            PruningError: If it cannot; nothing has changed then.
        """
        raise PruningError(f'{type(self).__name__} cannot be merged')


BRANCHES: Choices[Callable[..., Branch]] = Choices('bypass')


def register_branch(
    name: str,
) -> Callable[[type[Branch]], type[Branch]]:
    """Adds a branch under a name that ``bypass=...`` can use.

    Args:
        name (str): The name.

    Examples:
        >>> from mmlapp.core import ConvBranch
        >>> @register_branch('doc_half')
        ... class Half(ConvBranch):
        ...     def make(self, layer):
        ...         return self.beside(layer, groups=2)
    """

    def add(kind: type[Branch]) -> type[Branch]:
        BRANCHES.register(name)(kind)
        return kind

    return add


def check_bypass(choice: str | Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a config asks for as a dictionary with ``type``.

    Args:
        choice (str or Mapping): A name, or a dictionary with it as ``type``
            and settings of the branch.

    Raises:
        PruningError: If the name is unknown.
    """
    return BRANCHES.spelled_out(choice)


def start_branches(model: nn.Module) -> None:
    """Tells all branches of a network that its weights are set.

    Args:
        model (nn.Module): The network.
    """
    for module in model.modules():
        if isinstance(module, Branch):
            module.start()
