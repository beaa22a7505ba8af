# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Shapes of a layer that was narrowed, from those with all channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmlapp.core.cost.latency_table import AXES, full_width
from mmlapp.core.trace import LayerCall


@dataclass(frozen=True)
class Shape:
    """A convolution or product at some widths.

    Args:
        inputs (tuple[int, ...]): Shape of the input.
        weight (tuple[int, ...]): Shape of the weight.
        groups (int): Of a convolution.
    """

    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    groups: int = 1


def shape_at(call: LayerCall, widths: Mapping[str, int]) -> Shape:
    """Returns the shapes of a call that was narrowed.

    Args:
        call (LayerCall): With all channels.
        widths (Mapping[str, int]): Of some of its dimensions.
    """
    sizes = {axis: widths.get(axis, width_of(call, axis)) for axis in AXES}
    if call.op == 'product':
        # [..., in] times [..., in, out].
        *rest, _, _ = call.weight
        return Shape(
            (*call.inputs[:-1], sizes['in']),
            (*rest, sizes['in'], sizes['out']),
        )
    groups = int(call.geometry.get('groups', 1))
    if groups > 1 and 'out' in widths and 'in' not in call.dims:
        # Whole groups go: of 4 groups with 8 outputs, 6 outputs are 3 groups.
        groups = sizes['out'] * groups // call.weight[0]
    # [out, in / groups, ...], of a transposed one [in, out / groups, ...].
    first, second = 'out', 'in'
    if is_transposed(call):
        first, second = second, first
    weight = (sizes[first], sizes[second], *call.weight[2:])
    # `in` counts the inputs of one group; in a transposed weight those of all
    # groups.
    channels = sizes['in'] * (1 if is_transposed(call) else groups)
    return Shape((call.inputs[0], channels, *call.inputs[2:]), weight, groups)


def width_of(call: LayerCall, axis: str) -> int:
    """Returns how wide a dimension of a call is with all channels.

    Args:
        call (LayerCall): The call.
        axis (str): The dimension, ``in`` or ``out``.
    """
    return full_width(call.op, call.weight, is_transposed(call), axis)


def is_transposed(call: LayerCall) -> bool:
    """Whether a call is a transposed convolution.

    Args:
        call (LayerCall): The call.
    """
    return bool(call.geometry.get('transposed'))
