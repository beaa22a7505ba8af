# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Few samples of boxes, where a loss is only to show what it reads.

The second stage of a detector learns of hundreds of boxes for each image,
which takes longer than all that comes before. All pass the same layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# More than there are levels of features, some positive ones among them.
FEW = 5


@contextmanager
def few_samples(model: nn.Module) -> Iterator[None]:
    """Lets the samplers of a detector choose few boxes for a while.

    Args:
        model (nn.Module): Any model; one without samplers is left alone.
    """
    before = [(sampler, sampler.num) for sampler in _samplers(model)]
    for sampler, number in before:
        sampler.num = min(number, FEW)
    try:
        yield
    finally:
        for sampler, number in before:
            sampler.num = number


def _samplers(model: nn.Module) -> list[Any]:
    """What modules keep, alone or in a list, that samples a number."""
    kept = [value for m in model.modules() for value in vars(m).values()]
    parts = [
        part
        for value in kept
        # Cascades have one for each stage.
        for part in (value if isinstance(value, (list, tuple)) else [value])
    ]
    # Some combine two, one for positive and one for negative boxes.
    parts += [
        getattr(part, name)
        for part in parts
        for name in ('pos_sampler', 'neg_sampler')
        if _samples(part) and hasattr(part, name)
    ]
    return list({id(part): part for part in parts if _samples(part)}.values())


def _samples(part: Any) -> bool:
    """Whether it is a sampler of mmdet, or works like one."""
    if isinstance(part, nn.Module):
        return False
    method = getattr(type(part), 'sample', None)
    own: dict[str, Any] = getattr(part, '__dict__', {})
    return callable(method) and type(own.get('num')) is int
