# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What backbones cut into stages share: widths, outputs, initialization."""

from __future__ import annotations

from collections.abc import Sequence

from mmlapp.core import PruningError


def spread_widths(
    name: str, widths: int | Sequence[int], layers: Sequence[int]
) -> list[list[int]]:
    """Give every layer of every stage its width.

    Args:
        name (str): Name of the argument, for the error.
        widths (int | Sequence[int]): One number for all layers, one per
            stage or one per layer.
        layers (Sequence[int]): Number of layers in each stage.

    Returns:
        list[list[int]]: Widths of the layers of each stage.

    Raises:
        PruningError: If the numbers are not positive or fit no reading.

    Examples:
        >>> from mmlapp.models.stages import spread_widths
        >>> spread_widths('channels', [8, 16], layers=[1, 2])
        [[8], [16, 16]]
    """
    total = sum(layers)
    flat = [widths] * total if isinstance(widths, int) else list(widths)
    if len(flat) == len(layers):
        flat = [w for w, n in zip(flat, layers, strict=True) for _ in range(n)]
    if len(flat) != total:
        raise PruningError(
            f'{name}={widths}: expected one number, {len(layers)} (one per '
            f'stage) or {total} (one per layer), got {len(flat)}'
        )
    for width in flat:
        check_positive(name, width)
    numbers = iter(flat)
    return [[next(numbers) for _ in range(n)] for n in layers]


def check_positive(name: str, value: int) -> None:
    """Refuse a number of channels that is not a positive integer.

    Args:
        name (str): Name of the argument, for the error.
        value (int): The number.

    Raises:
        PruningError: If it is not a positive integer.
    """
    if not isinstance(value, int) or value < 1:
        raise PruningError(
            f'{name}={value!r}: expected a positive number of channels'
        )


def check_out_indices(out_indices: Sequence[int], num_stages: int) -> None:
    """Refuse outputs of stages that do not exist.

    Args:
        out_indices (Sequence[int]): Stages whose maps are asked for.
        num_stages (int): Stages that exist.

    Raises:
        PruningError: If none is asked for or one does not exist.
    """
    if not out_indices or not set(out_indices) <= set(range(num_stages)):
        raise PruningError(
            f'out_indices={out_indices}: expected stages from 0 to '
            f'{num_stages - 1}, at least one'
        )


def kaiming_init_cfg() -> list[dict]:
    """Initialization of He et al. 2015 in the form of MMEngine.

    Returns:
        list[dict]: A fresh ``init_cfg``.
    """
    return [
        dict(type='Kaiming', layer='Conv2d'),
        dict(type='Constant', layer='_BatchNorm', val=1),
    ]
