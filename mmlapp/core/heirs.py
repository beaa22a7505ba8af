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


def handed_on(heirs: Heirs, later: Heirs) -> Heirs:
    """Returns what took the place of parameters in two steps.

    Args:
        heirs (Heirs): Of the first.
        later (Heirs): Of the second, which may replace what the first made.

    Examples:
        >>> import torch
        >>> old, new, last = (nn.Parameter(torch.ones(n)) for n in (3, 2, 1))
        >>> first = {old: [Heir(new, lambda t: t[:2])]}
        >>> (heir,) = handed_on(first, {new: [Heir(last, lambda t: t[1:])]})[
        ...     old
        ... ]
        >>> heir.new is last, heir.take(torch.arange(3))
        (True, tensor([1]))
    """
    found = {
        old: [last for heir in taken for last in _after(heir, later)]
        for old, taken in heirs.items()
    }
    made = {heir.new for taken in heirs.values() for heir in taken}
    alone = {old: taken for old, taken in later.items() if old not in made}
    return {**found, **alone}


def _after(heir: Heir, later: Heirs) -> Sequence[Heir]:
    if heir.new not in later:
        return [heir]

    def both(second: Heir) -> Heir:
        return Heir(second.new, lambda tensor: second.take(heir.take(tensor)))

    return [both(second) for second in later[heir.new]]
