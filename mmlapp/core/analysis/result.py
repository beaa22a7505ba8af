# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What was found in a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..bypass import Branch
from ..cost.flops import multiply_adds
from ..groups import Groups
from ..trace import Trace
from ..units import Unit
from .unreached import Reach


@dataclass(frozen=True)
class Analysis:
    """What can be pruned in a network, and what it costs.

    Args:
        trace (Trace): Recorded forward.
        groups (Groups): Prunable and frozen groups.
        branches (dict[str, Branch]): Branch of each layer that gets one.
        without (dict[str, str]): Layers without one, and why.
        unit (Unit): What is removed.
        bypass (Mapping, optional): What the branches were built from.
        reach (Reach): Which modules ran in which way. Defaults to all on
            the example.

    Examples:
        >>> from torch import nn, rand
        >>> from mmlapp.core import analyse
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> found = analyse(net, rand(1, 3, 9, 9))
        >>> found.flops == 7 * 7 * 8 * 3 * 9 + 5 * 5 * 4 * 8 * 9
        True
        >>> [(group.name, group.frozen) for group in found.groups.items]
        [('0', None), ('1', 'output of the network')]
    """

    trace: Trace
    groups: Groups
    branches: dict[str, Branch]
    without: dict[str, str]
    unit: Unit
    bypass: Mapping[str, Any] | None
    reach: Reach = field(default_factory=Reach)

    @property
    def flops(self) -> int:
        """Multiply-adds of the network as it is."""
        return sum(map(multiply_adds, self.trace.calls))
