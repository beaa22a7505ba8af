# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Modules that compute over their channels, followed as a whole.

A layer norm of fewer channels is another function. While channels are only
masked such a module therefore runs on the living ones alone, as it will when
the network is narrowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..labels import Axis, Labels, blank, tie_pieces
from ..record import INPUT_REASON, Compact
from ..tracer import Tracer
from .attention import is_joint_attention, joint_attention
from .convolution import convolve

# What every convolution has; a variant may have a gain beside them.
LAYER = 'weight', 'bias'
Whole = Callable[[Tracer, nn.Module, Sequence[Any], Any], None]


def normalisation(
    tracer: Tracer, module: nn.Module, args: Sequence[Any], out: Any
) -> None:
    """Input and output are the same channels, whatever is done to them."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or not isinstance(out, Tensor):
        return
    labels, width = tracer.labels(x), _width(module)
    tracer.note_reader(labels, is_norm=False)
    name = tracer.modules.get(id(module))
    dims = list(labels.axes)
    known = tracer.trace.compact.get(name or '')
    if (
        name is None
        or x.shape != out.shape
        or [x.shape[d] for d in dims] != [width]
        or (known is not None and known.dim != dims[0])
    ):
        tracer.freeze(labels, f'normalised by {type(module).__name__}')
        tracer.set(
            out,
            Labels({d: Axis(a.ids, False) for d, a in labels.axes.items()}),
        )
        return
    ids = labels.axes[dims[0]].ids
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        _tie(tracer, tensor, ids)
    if known is not None:
        tracer.graph.unite(known.ids, ids, INPUT_REASON)
    _tie_groups(tracer, module, name, ids)
    tracer.trace.compact[name] = Compact(name, dims[0], ids, ids)
    tracer.set(out, Labels({dims[0]: Axis(ids, zero=True)}))


def standardised(
    tracer: Tracer, module: Any, args: Sequence[Any], out: Any
) -> None:
    """A convolution whose weight is normalised over its input channels."""
    x, name = args[0], tracer.modules.get(id(module), '')
    labels = tracer.labels(x)
    tracer.note_reader(labels, is_norm=False)
    convolve(tracer, x, module.weight, module.bias, out, module.groups)
    emitted = tracer.labels(out).axes.get(1, blank(out.shape[1]))
    gains = [p for n, p in module._parameters.items() if n not in LAYER]
    for tensor in (*module._buffers.values(), *gains):
        _tie(tracer, tensor, emitted.ids)
    entered = labels.axes.get(1, blank(x.shape[1]))
    known = tracer.trace.compact.get(name)
    if known is not None:
        tracer.graph.unite(known.ids, entered.ids, INPUT_REASON)
    tracer.trace.compact[name] = Compact(name, 1, entered.ids, emitted.ids)


def _width(module: nn.Module) -> int:
    """Number of channels; 0 if it cannot follow them.

    It cannot over several dimensions, or if it has the shape without weights
    that tell a narrowed one.
    """
    shape = getattr(module, 'normalized_shape', None)
    if shape is not None:
        weight = module._parameters.get('weight')
        return 0 if weight is None or weight.dim() > 1 else weight.numel()
    width = getattr(module, 'num_channels', None)
    if width is not None:
        return int(width)
    return max((p.numel() for p in module.parameters()), default=0)


def _tie(tracer: Tracer, tensor: Tensor | None, ids: Tensor) -> None:
    if tensor is None:
        return
    for axis in tracer.labels(tensor).axes.values():
        if axis.ids.numel() == ids.numel():
            tracer.graph.unite(ids, axis.ids, INPUT_REASON)


def _tie_groups(
    tracer: Tracer, module: nn.Module, name: str, ids: Tensor
) -> None:
    """Groups of a norm stay equally large, or go as a whole."""
    groups = int(getattr(module, 'num_groups', 1))
    if groups == 1:
        return
    length = ids.numel() // groups
    if groups <= length:
        tie_pieces(tracer.graph, Axis(ids), length)
        return
    pieces = ids.view(groups, length)
    tracer.graph.unite(pieces[:, :1], pieces, INPUT_REASON)
    site = tracer.site(f'{name}.num_groups', 0, groups, attribute=True)
    nodes = torch.arange(site.start, site.start + groups)
    tracer.graph.unite(pieces[:, 0], nodes, INPUT_REASON)


# By name, so that classes of other packages need not be imported.
WHOLES: dict[str, Whole] = {
    'LayerNorm': normalisation,
    'RMSNorm': normalisation,
    'GroupNorm': normalisation,
    'HorNetLayerNorm': normalisation,
    'GRN': normalisation,
    'L2Norm': normalisation,
    'ConvWS2d': standardised,
    'ConvAWS2d': standardised,
    'StdConv2d': standardised,
    'ScaledStdConv2d': standardised,
}


# Blocks with layers inside; others of the name may be built otherwise.
ATTENTIONS = {'WindowMSA'}


def rule_of(module: nn.Module) -> Whole | None:
    """Returns the rule of a module's class or of one of its bases.

    Args:
        module (nn.Module): The module; one with children has none, but for
            known blocks of attention.
    """
    names = [base.__name__ for base in type(module).__mro__]
    if ATTENTIONS.intersection(names) and is_joint_attention(module):
        return joint_attention
    if any(True for _ in module.children()):
        return None
    return next((WHOLES[name] for name in names if name in WHOLES), None)
