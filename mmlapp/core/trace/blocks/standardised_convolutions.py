# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Convolutions whose weight is normalised (arXiv 1903.10520, 2101.08692)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..labels import blank
from ..record import INPUT_REASON, LivingModule
from ..rules.convolution import convolve
from ..rules.layer import tie_own
from ..tracer import Tracer
from .registry import register_block

# What every convolution has; a variant may have a gain beside them.
LAYER = 'weight', 'bias'


def convolve_standardised(
    tracer: Tracer, module: Any, args: Sequence[Any], out: Any
) -> None:
    """A convolution whose weight is normalised over its input channels."""
    x, name = args[0], tracer.modules.get(id(module), '')
    labels = tracer.labels(x)
    tracer.note_reader(labels)
    convolve(
        tracer,
        x,
        module.weight,
        module.bias,
        out,
        module.groups,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
    )
    emitted = tracer.labels(out).axes.get(1, blank(out.shape[1]))
    gains = [p for n, p in module._parameters.items() if n not in LAYER]
    for tensor in (*module._buffers.values(), *gains):
        tie_own(tracer, tensor, emitted.ids)
    entered = labels.axes.get(1, blank(x.shape[1]))
    # Mean and deviation of a filter are taken over [in/g, kh, kw]. Removed
    # inputs must not count in them, so it runs on the living ones alone.
    known = tracer.trace.living_modules.get(name)
    if known is not None:
        tracer.graph.unite(known.ids, entered.ids, INPUT_REASON)
    tracer.trace.living_modules[name] = LivingModule(
        name, 1, entered.ids, emitted.ids
    )


# Their attributes are those of any convolution.
register_block(
    'ConvWS2d',
    'ConvAWS2d',
    'StdConv2d',
    'ScaledStdConv2d',
    rule=convolve_standardised,
)
