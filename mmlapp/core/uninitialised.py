# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parameters that hold whatever was in memory when they were made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# No weight that a network begins with is as large as that.
LARGEST = 1e6
# What arithmetic is defined for on every device.
REALS = torch.float64, torch.float32, torch.float16, torch.bfloat16


@contextmanager
def filled(model: nn.Module) -> Iterator[None]:
    """Gives small random numbers to what is not initialised yet.

    ``torch.Tensor(4, 256)`` and ``torch.empty`` are filled by ``init_weights``
    or by a checkpoint, later than a network is analysed. A NaN in memory that
    was used before would decide what it runs on, differently every time.

    Args:
        model (nn.Module): The network; its values are put back.

    Examples:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.fill_(float('nan'))
        >>> with filled(layer):
        ...     bool(layer(torch.ones(1, 2)).isfinite())
        True
        >>> bool(layer.weight.isnan().all())
        True
    """
    empty = [
        *(p.data for p in model.parameters() if not _is_plausible(p)),
        # Infinite ones mean something: they mask attention.
        *(b.data for b in model.buffers() if _has_nan(b)),
    ]
    before = [value.clone() for value in empty]
    for value in empty:
        generator = torch.Generator(value.device).manual_seed(0)
        value.uniform_(-0.1, 0.1, generator=generator)
    try:
        yield
    finally:
        for value, own in zip(empty, before, strict=True):
            value.copy_(own)


def _is_plausible(value: Tensor) -> bool:
    """Whether no number is NaN, infinite or larger than any weight."""
    return not _holds_reals(value) or bool(value.abs().max() <= LARGEST)


def _has_nan(value: Tensor) -> bool:
    return _holds_reals(value) and bool(value.isnan().any())


def _holds_reals(value: Tensor) -> bool:
    return (
        not is_lazy(value)
        and not value.is_meta
        and value.layout is torch.strided
        and value.dtype in REALS
        and value.numel() > 0
    )
