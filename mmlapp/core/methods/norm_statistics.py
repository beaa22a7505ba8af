# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Running statistics that only channels which are there move."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NAMES = 'running_mean', 'running_var'


class NormStatistics:
    """Keeps the running statistics of a step's beginning, for its end.

    A copy for the time of a step, and no state: between two steps there is
    none.

    Examples:
        >>> norm, statistics = nn.BatchNorm1d(2), NormStatistics()
        >>> statistics.note([norm])
        >>> out = norm(torch.ones(4, 2))
        >>> statistics.put_back([(norm, torch.tensor([True, False]))])
        >>> norm.running_mean
        tensor([0.1000, 0.0000])
    """

    def __init__(self) -> None:
        self.noted: dict[nn.Module, list[Tensor]] = {}

    def __deepcopy__(self, memo: object) -> NormStatistics:
        # A copy of the network has norms of its own.
        return type(self)()

    def __reduce__(self) -> tuple[type[NormStatistics], tuple[()]]:
        return type(self), ()

    @torch.no_grad()
    def note(self, norms: Iterable[nn.Module]) -> None:
        """Notes the statistics, unless that is done in this step.

        Args:
            norms (Iterable[nn.Module]): Those that have some are noted.
        """
        # Several forwards may belong to one step: the first one counts.
        if not self.noted:
            for norm in norms:
                self.noted[norm] = [value.clone() for value in _of(norm)]

    @torch.no_grad()
    def put_back(self, alive: Iterable[tuple[nn.Module, Tensor]]) -> None:
        """Gives entries that are not alive what they had.

        Args:
            alive (Iterable[tuple[nn.Module, Tensor]]): Norms, and which of
                their entries are, bool ``[N]``.
        """
        for norm, living in alive:
            former = self.noted.get(norm, [])
            # A norm that came later was not noted, and stays as it is.
            for value, before in zip(_of(norm), former, strict=False):
                value.copy_(
                    torch.where(living.to(value.device), value, before)
                )
        self.noted = {}


def _of(norm: nn.Module) -> list[Tensor]:
    found = (getattr(norm, name, None) for name in NAMES)
    return [value for value in found if isinstance(value, Tensor)]
