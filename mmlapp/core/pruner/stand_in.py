# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What stands in for the gate in a forward that is trained."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class StandIn:
    """Holds a tensor with its graph, of one forward alone.

    Copies and files of its owner leave the tensor out: a graph can be
    neither copied nor saved.

    Examples:
        >>> import copy, torch
        >>> held = StandIn()
        >>> held.value = torch.ones(1, requires_grad=True) * 2
        >>> copy.deepcopy(held).value is None
        True
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        return type(self)()

    def __reduce__(self) -> tuple[type[StandIn], tuple[()]]:
        return type(self), ()
