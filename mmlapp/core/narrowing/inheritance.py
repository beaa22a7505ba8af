# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What was said of a parameter, for what takes its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..heirs import Heir, Heirs

# Where a tensor keeps hooks: of its gradient, and of when that is complete.
HOOKS = '_backward_hooks', '_post_accumulate_grad_hooks'


@torch.no_grad()
def hand_on_the_rest(heirs: Heirs) -> None:
    """Gives narrow parameters the class, attributes and hooks of wide ones.

    A mark such as ``no_decay`` is read when an optimizer is made, a hook
    clips a gradient or takes the step itself: without them training would be
    another one, and nobody would hear of it. Attributes in the shape of the
    parameter are narrowed with it.

    Args:
        heirs (Heirs): What took the place of every replaced parameter.

    Examples:
        >>> old, new = (nn.Parameter(torch.ones(n)) for n in (3, 2))
        >>> old.no_decay = True
        >>> hand_on_the_rest({old: [Heir(new, lambda t: t[:2])]})
        >>> new.no_decay
        True
    """
    for old, taken in heirs.items():
        for heir in taken:
            _hand_on(old, heir)


def _hand_on(old: nn.Parameter, heir: Heir) -> None:
    new, kind = heir.new, type(old)
    # Of what only passes for a parameter the class says how it is stored.
    if issubclass(kind, nn.Parameter):
        new.__class__ = kind
    for name, value in vars(old).items():
        alike = isinstance(value, Tensor) and value.shape == old.shape
        setattr(new, name, heir.take(value) if alike else value)
    for store in HOOKS:
        # The very dictionary: a handle that takes a hook off holds it.
        if getattr(old, store, None):
            setattr(new, store, getattr(old, store))
