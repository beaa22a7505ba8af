# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Latency tables that nobody measured: times by a formula."""

import itertools

from mmlapp.core import analyse, attach
from mmlapp.core.attach import cost_context
from mmlapp.core.cost.flops import HANDLES, multiply_adds
from mmlapp.core.cost.latency_table import (
    LatencyTable,
    TimedLayer,
    TimedNetwork,
    full_width,
)
from mmlapp.core.cost.timed_calls import axes_of

DENSE = (TimedNetwork(1.0, 1.0, 2e-3, 2e-3),)


def by_flops(call, shares):
    """A nanosecond for each multiply-add."""
    seconds = multiply_adds(call) * 1e-9
    for share in shares.values():
        seconds *= share
    return seconds


def made_up(
    model, example, formula=by_flops, networks=DENSE, points=4, **asked
):
    """A table of all calls of a network, at quarters of their widths.

    ``formula`` gets a call and what is left of each dimension.
    """
    divisor = asked.pop('divisor', 1)
    analysis = analyse(model, example, **asked)
    context = cost_context(model, analysis)
    layers = []
    for call in (*context.calls, *context.branch_calls):
        if call.op not in HANDLES:
            continue
        axes = {}
        for axis in axes_of(call, context.groups):
            transposed = bool(call.geometry.get('transposed'))
            full = full_width(call.op, call.weight, transposed, axis)
            axes[axis] = tuple(
                sorted({-(-full * k // points) for k in range(1, points + 1)})
            )
        times = tuple(
            formula(
                call,
                {
                    axis: width / widths[-1]
                    for (axis, widths), width in zip(
                        axes.items(), chosen, strict=True
                    )
                },
            )
            for chosen in itertools.product(*axes.values())
        )
        layers.append(
            TimedLayer(
                (call.name,),
                call.op,
                call.inputs,
                call.weight,
                call.geometry,
                axes,
                times,
                times,
            )
        )
    return LatencyTable({}, divisor, tuple(layers), networks)


def with_latency(model, images, table, **settings):
    """A pruner that counts times of a table beside FLOPs."""
    costs = ['flops', 'parameters', dict(type='latency', table=table)]
    return attach(model, images, costs=costs, **settings)
