# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether two networks compute the same: one measure, one place for bounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Between a masked and a narrowed network before training: random weights and
# one image, where rounding is all that may differ; of float64, or of what is
# less exact.
TRIAL_TOLERANCE = 1e-9
# Beyond it float32 has to be looked at again in float64.
SCREEN_TOLERANCE = 1e-5
ROUGH_TOLERANCE = 1e-3
# Between a trained network and what is deployed, and in the zoo.
DEPLOYED_TOLERANCE = 1e-4


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Largest error of any element over the largest expected magnitude.

    Args:
        expected (Tensor): Of one network; not empty.
        found (Tensor): Of the other one, in the same shape.

    Examples:
        >>> relative_error(torch.tensor([4.0, 1.0]), torch.tensor([3.0, 1.0]))
        0.25
    """
    wanted = in_double(expected)
    scale = wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((wanted - in_double(found)).abs().max() / scale)


def in_double(values: Tensor) -> Tensor:
    """Values as differences are taken of them: in 64 bits for each part.

    Args:
        values (Tensor): Numbers of any kind, or booleans.

    Examples:
        >>> in_double(torch.tensor([True]))
        tensor([1.], dtype=torch.float64)
        >>> in_double(torch.tensor([1j])).dtype
        torch.complex128
    """
    # A complex tensor as float64 would lose its imaginary part.
    return values.to(
        torch.complex128 if values.is_complex() else torch.float64
    )


def relative_errors(
    expected: Sequence[Tensor], found: Sequence[Tensor]
) -> list[float] | None:
    """Compares outputs one by one.

    Args:
        expected (Sequence[Tensor]): Outputs of one network.
        found (Sequence[Tensor]): Outputs of the other one.

    Returns:
        list[float] or None: Error of each output that has values, NaN where
        one is no number; None if they differ in number or shape.
    """
    if [t.shape for t in expected] != [t.shape for t in found]:
        return None
    return [
        relative_error(a, b)
        for a, b in zip(expected, found, strict=True)
        if a.numel() and a.device.type != 'meta'
    ]


def largest_error(
    expected: Sequence[Tensor], found: Sequence[Tensor]
) -> float:
    """Largest relative error of any output tensor.

    Args:
        expected (Sequence[Tensor]): Outputs of one model.
        found (Sequence[Tensor]): Outputs of the other one.

    Returns:
        float: Infinite if the outputs differ in number or shape or if there
        are none, NaN if a value is no number.

    Examples:
        >>> largest_error([torch.tensor([4.0])], [torch.tensor([3.0])])
        0.25
    """
    errors = relative_errors(expected, found)
    # By torch, whose maximum is NaN if one is.
    return float(torch.tensor(errors).max()) if errors else float('inf')


def agree(
    expected: Sequence[Tensor],
    found: Sequence[Tensor],
    tolerance: float = ROUGH_TOLERANCE,
) -> bool:
    """Whether a network on trial computes what its masked twin does.

    Args:
        expected (Sequence[Tensor]): Outputs of the masked network.
        found (Sequence[Tensor]): Outputs of the narrowed one.
        tolerance (float): Largest relative error. Defaults to what is
            allowed where something is less exact than float64.
    """
    errors = relative_errors(expected, found)
    return errors is not None and all(e <= tolerance for e in errors)
