# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether two networks return the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

# Rounding in float64, as a share of the largest number of an output.
TOLERANCE = 1e-9


def run(model: nn.Module, x: Any) -> tuple[list[Tensor], Any]:
    """Runs a network; returns its tensors and how they are packed."""
    torch.manual_seed(0)
    with torch.no_grad():
        return tree_flatten(model(x))


def same(
    expected: tuple[list[Tensor], Any],
    found: tuple[list[Tensor], Any],
    what: str,
    tolerance: float = TOLERANCE,
) -> None:
    """Compares what two networks return."""
    assert expected[1] == found[1], f'{what}: other outputs'
    for a, b in zip(expected[0], found[0], strict=True):
        close(a, b, what, tolerance)


def close(a: Tensor, b: Tensor, what: str, tolerance: float) -> None:
    """Compares two tensors by the scale of the first one."""
    assert a.shape == b.shape, (
        f'{what}: {tuple(b.shape)} instead of {tuple(a.shape)}'
    )
    if not a.numel():
        return
    a, b = a.double(), b.double()  # booleans have no magnitude
    # An error of 1e-9 in what should be zero is one.
    scale = float(a.abs().max().clamp_min(1e-3))
    error = float((a - b).abs().max()) / scale
    assert error <= tolerance, f'{what}: they differ by {error:.1e}'
