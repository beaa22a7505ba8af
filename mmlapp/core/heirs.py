# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What takes the place of a parameter that is narrowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Heir:
    """A parameter that took the place of a wider one, or of a part of it.

    Args:
        new (nn.Parameter): The narrow parameter.
        take (Callable): Takes the values that stay out of any tensor of the
            wide parameter's shape, and returns a copy.
    """

    new: nn.Parameter
    take: Callable[[Tensor], Tensor]


# Every replaced parameter and what took its place; nothing, if it vanished.
Heirs = Mapping[nn.Parameter, Sequence[Heir]]
