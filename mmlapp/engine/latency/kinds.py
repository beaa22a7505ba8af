# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of layers of a network, and the widths at which each is measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmlapp.core.cost import CostContext
from mmlapp.core.cost.flops import HANDLES
from mmlapp.core.cost.latency_table import key_of_call
from mmlapp.core.cost.timed_calls import axes_of
from mmlapp.core.trace import LayerCall

from .shapes import width_of


@dataclass(frozen=True)
class Kind:
    """Calls that take equally long, as one of them.

    Args:
        names (tuple[str, ...]): Layers that run so.
        call (LayerCall): With all channels.
        axes (Mapping[str, tuple[int, ...]]): Widths at which it is
            measured, by dimension.
    """

    names: tuple[str, ...]
    call: LayerCall
    axes: Mapping[str, tuple[int, ...]]

    def widths(self) -> Iterator[dict[str, int]]:
        """Yields all points of the grid, the last axis fastest."""
        for chosen in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, chosen, strict=True))


def kinds(
    context: CostContext, batch: int, points: int, divisor: int
) -> list[Kind]:
    """Gathers the convolutions and products of a network by kind.

    Args:
        context (CostContext): What costs are counted from.
        batch (int): Images at once.
        points (int): Widths of each dimension that may shrink.
        divisor (int): What they are multiples of.

    Returns:
        list[Kind]: In order of the forward.
    """
    found: dict[tuple[Any, ...], Kind] = {}
    calls = [c for c in context.calls if c.op in HANDLES]
    added = [c for c in context.branch_calls if c.op in HANDLES]
    # The example has images of its own: one, or two.
    own = calls[0].inputs[0] if calls else 1
    for call in (*calls, *added):
        axes = {
            axis: grid(call, axis, points, divisor)
            for axis in axes_of(call, context.groups)
        }
        # With the axes, for one of two equal layers may shrink alone.
        key = key_of_call(call), *axes
        if key not in found:
            found[key] = Kind((), _at_batch(call, batch, own), axes)
        kind = found[key]
        names = dict.fromkeys((*kind.names, call.name))
        found[key] = replace(kind, names=tuple(names))
    return list(found.values())


def _at_batch(call: LayerCall, batch: int, own: int) -> LayerCall:
    """The same for other images, which the first dimension counts."""

    def scaled(shape: Sequence[int]) -> tuple[int, ...]:
        return (max(shape[0] * batch // own, 1), *shape[1:])

    # Where both factors are activations, both count images.
    computed = call.op == 'product' and len(call.weight) > 2
    return replace(
        call,
        inputs=scaled(call.inputs),
        outputs=scaled(call.outputs),
        weight=scaled(call.weight) if computed else call.weight,
    )


def grid(
    call: LayerCall, axis: str, points: int, divisor: int
) -> tuple[int, ...]:
    """Returns widths of a dimension, evenly spaced, and half of the least.

    Args:
        call (LayerCall): The call.
        axis (str): The dimension.
        points (int): How many.
        divisor (int): What all but the full width are multiples of.
    """
    full = width_of(call, axis)
    # Widths of grouped layers are whole groups, or equal parts of all.
    step = math.lcm(divisor, _unit(call) if axis == 'out' else _field(call))
    shares = [0.5 / points, *((k + 1) / points for k in range(points))]
    wanted = {math.ceil(full * share / step) * step for share in shares}
    return tuple(sorted({min(width, full) for width in wanted}))


def _unit(call: LayerCall) -> int:
    """What the outputs of a convolution are multiples of."""
    groups = int(call.geometry.get('groups', 1))
    if groups == 1:
        return 1
    # Without inputs whole groups go: out / groups at a time.
    return groups if 'in' in call.dims else call.weight[0] // groups


def _field(call: LayerCall) -> int:
    """What the inputs of a convolution, in one group, are multiples of."""
    # in * groups channels share the fields of offsets evenly.
    fields = int(call.geometry.get('offset_groups', 1))
    return fields // math.gcd(fields, int(call.geometry.get('groups', 1)))
