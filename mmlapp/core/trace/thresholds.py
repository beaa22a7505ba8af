# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How many channels must be left for code to branch as it was seen to.

``f(x) if x.shape[1] > 1 else x.relu()`` computes something else once a single
channel is left. While a network is traced the numbers of its channels tell
with what they are compared, and how that came out.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Code that compares numbers of channels to check them, or to follow them.
OWN = tuple(
    os.path.join(folder, '')
    for folder in (
        os.path.dirname(torch.__file__),
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    )
)
# How each comparison reads from the other side.
MIRRORED = {
    'eq': 'eq',
    'ge': 'le',
    'gt': 'lt',
    'le': 'ge',
    'lt': 'gt',
    'ne': 'ne',
}
# Outcomes that say that a number is larger, or as large at least.
LARGER = {('gt', True), ('le', False), ('eq', False), ('ne', True)}
AT_LEAST = {('ge', True), ('lt', False)}


@dataclass(frozen=True)
class Threshold:
    """What code of the network asks for, and got.

    Args:
        ids (Tensor): Labels of what was counted, ``[size]``.
        least (int): Of so many indices that are left the code goes on as it
            did.
        against (Tensor): Labels of what the number was compared with: if
            these are channels too, it can only be fewer than it was then.
            Shape ``[other size]``, empty for a plain number.
    """

    ids: Tensor
    least: int
    against: Tensor


@dataclass(frozen=True)
class Remainder:
    """What code of the network divides and looks at what is left over.

    Args:
        ids (Tensor): Labels of what was counted, ``[size]``.
        divisor (int): By what, between 1 and the size.
    """

    ids: Tensor
    divisor: int


def least_value(name: str, value: int, other: float) -> int | None:
    """Returns the least number that compares as a larger one did.

    Args:
        name (str): The comparison, as :mod:`operator` calls it.
        value (int): The number.
        other (float): What it is compared with.

    Returns:
        int or None: None if all that are smaller compare so too.

    Examples:
        >>> least_value('gt', 8, 3), least_value('ge', 8, 3)
        (4, 3)
        >>> least_value('ne', 8, 3), least_value('lt', 8, 9)
        (4, None)
    """
    outcome = name, bool(getattr(operator, name)(value, other))
    finite = isinstance(other, int) or math.isfinite(other)
    if not finite or other > value:
        return None
    if outcome in LARGER:
        return math.floor(other) + 1
    return math.ceil(other) if outcome in AT_LEAST else None


def in_own_code() -> bool:
    """Whether the caller of the method that asks is no code of a network.

    It is the code that compares, or calls ``min``, ``sorted``, ``in``, ...
    """
    return sys._getframe(2).f_code.co_filename.startswith(OWN)


def comparison(name: str) -> Callable[[Any, Any], Any]:
    """Returns a comparison of a number that notes how it comes out.

    Its class has a method ``compared(name, other)``, which notes it, and what
    type of numbers it is as ``kind``.

    Args:
        name (str): The comparison, as :mod:`operator` calls it.
    """
    compare = getattr(operator, name)

    def compared(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        if not in_own_code():
            self.compared(name, other)
        plain = float if isinstance(other, float) else int
        return compare(self.kind(self), plain(other))

    return compared
