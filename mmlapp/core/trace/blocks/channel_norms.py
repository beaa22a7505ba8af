# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Norms over channels, followed as a whole.

A layer norm of fewer channels is another function. While channels are only
masked such a module therefore runs on the living ones alone, as it will when
the network is narrowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..labels import Axis, Labels, tie_pieces, without_zero
from ..record import INPUT_REASON, LivingModule
from ..rules.layer import tie_own
from ..tracer import Tracer
from .registry import register_block
from .shapes import shape_of

# Normalise over as many dimensions at the end as their shape has.
OVER_THE_LAST = nn.LayerNorm, nn.RMSNorm


def adjust_layer_norm(module: Any) -> None:
    """One without a weight is told its new shape by the plan."""
    if module._parameters.get('weight') is None:
        return
    module.normalized_shape = shape_of(module, 'weight')
    if hasattr(module, 'num_channels'):
        module.num_channels = shape_of(module, 'weight')[0]


def adjust_group_norm(module: Any) -> None:
    """Without a weight its number of channels is not read."""
    if module.affine:
        module.num_channels = shape_of(module, 'weight')[0]


def normalise_channels(
    tracer: Tracer, module: nn.Module, args: Sequence[Any], out: Any
) -> None:
    """Input and output are the same channels, whatever is done to them."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or not isinstance(out, Tensor):
        return
    labels, width = tracer.labels(x), _width(module)
    tracer.note_reader(labels)
    if _each_alone(module, x, labels, out):
        tracer.set(out, without_zero(labels))
        return
    places = _places(module, x, labels, out)
    if places:
        labels = Labels({x.dim() - 1: labels.axes[x.dim() - 1]})
    name = tracer.modules.get(id(module))
    dims = list(labels.axes)
    known = tracer.trace.living_modules.get(name or '')
    if (
        name is None
        or x.shape != out.shape
        # Channels along one dimension alone, and all that are normalised.
        or [x.shape[d] for d in dims] != [width]
        # One module gathers along one dimension, at every call.
        or (known is not None and known.dim != dims[0])
    ):
        tracer.freeze(labels, f'normalised by {type(module).__name__}')
        axes = {**labels.axes, **places}
        tracer.set(
            out,
            Labels({d: Axis(a.ids, False) for d, a in axes.items()}),
        )
        return
    ids = labels.axes[dims[0]].ids
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        tie_own(tracer, tensor, ids)
    if _is_told_by_shape(module):
        _tie_attribute(tracer, f'{name}.normalized_shape', ids)
    _tie_groups(tracer, module, name, ids)
    living = LivingModule(name, dims[0], ids, ids, tuple(x.shape))
    tracer.trace.note_living(living)
    # What it computes for the living is put in their places between zeros.
    tracer.set(out, Labels({dims[0]: Axis(ids, zero=True), **places}))


def _places(
    module: Any, x: Tensor, labels: Labels, out: Tensor
) -> dict[int, Axis]:
    """Labels of what is normalised place by place, beside the channels."""
    others = {d: a for d, a in labels.axes.items() if d != x.dim() - 1}
    kind = _over_the_last(module)
    if kind is None or len(others) in (0, len(labels.axes)):
        return {}
    if tuple(module.normalized_shape) != x.shape[-1:] or x.shape != out.shape:
        return {}
    if not _is_as(kind, module, x, out):
        return {}
    return without_zero(Labels(others)).axes


def _over_the_last(module: Any) -> Any:
    """Which norm over the last dimensions a module is, if any."""
    return next((k for k in OVER_THE_LAST if isinstance(module, k)), None)


def _is_as(kind: Any, module: Any, x: Tensor, out: Tensor) -> bool:
    """Whether a norm gave what the norm of PyTorch gives.

    A forward of its own may permute first: what it gave tells.
    """
    return type(module).forward is kind.forward or torch.allclose(
        kind.forward(module, x), out, rtol=1e-3, atol=1e-4
    )


def _each_alone(module: Any, x: Tensor, labels: Labels, out: Tensor) -> bool:
    """Whether every channel is normalised by itself, as heads may be."""
    kind = _over_the_last(module)
    if kind is None or not labels.axes:
        return False
    shape = tuple(module.normalized_shape)
    last = x.dim() - len(shape)
    if max(labels.axes) >= last or x.shape[last:] != shape:
        return False
    return _is_as(kind, module, x, out)


def _width(module: nn.Module) -> int:
    """Number of channels; 0 if it cannot follow them.

    It cannot over several dimensions.
    """
    shape = getattr(module, 'normalized_shape', None)
    if shape is not None:
        weight = module._parameters.get('weight')
        if weight is None:
            return shape[0] if _is_told_by_shape(module) else 0
        return 0 if weight.dim() > 1 else weight.numel()
    width = getattr(module, 'num_channels', None)
    if width is not None:
        return int(width)
    # No attribute: the parameters are [C], as those of GRN and L2Norm.
    return max((p.numel() for p in module.parameters()), default=0)


def _tie_groups(
    tracer: Tracer, module: nn.Module, name: str, ids: Tensor
) -> None:
    """Groups of a norm stay equally large, or go as a whole.

    Channels [C] are seen as [g, C/g], one row for each group. Tied rows leave
    C/g choices (the same columns of every row go), whole groups leave g (any
    row goes, and ``num_groups`` with it): the finer choice is taken.
    """
    groups = int(getattr(module, 'num_groups', 1))
    if groups == 1:
        return
    # 6 channels in 2 groups: 0 goes with 3, 1 with 4 and 2 with 5, three
    # choices. In 3 groups: 0 with 1, 2 with 3 and 4 with 5, as many.
    length = ids.numel() // groups
    if groups <= length:
        tie_pieces(tracer.graph, Axis(ids), length)
        return
    pieces = ids.view(groups, length)
    # Row by row: [g, 1] with [g, C/g], then one node of the attribute for
    # each row, [g] with [g].
    tracer.graph.unite(pieces[:, :1], pieces, INPUT_REASON)
    _tie_attribute(tracer, f'{name}.num_groups', pieces[:, 0])


def _tie_attribute(tracer: Tracer, name: str, ids: Tensor) -> None:
    """Lets a number of a module follow what it counts."""
    site = tracer.site(name, 0, len(ids), attribute=True)
    nodes = torch.arange(site.start, site.start + len(ids))
    tracer.graph.unite(ids, nodes, INPUT_REASON)


def _is_told_by_shape(module: nn.Module) -> bool:
    """Whether its one size is in no weight, but in an attribute alone."""
    shape: Any = vars(module).get('normalized_shape', ())
    weight = module._parameters.get('weight')
    return weight is None and type(shape) in (tuple, list) and len(shape) == 1


def holds_no_other_tensors(module: nn.Module) -> bool:
    """Whether what is inside of a module has nothing to narrow.

    As the activation that some norms apply as well.

    Args:
        module (nn.Module): The module.
    """
    return not any(
        True
        for child in module.children()
        for _ in chain(child.parameters(), child.buffers())
    )


register_block(
    'LayerNorm',
    'RMSNorm',
    adjust=adjust_layer_norm,
    rule=normalise_channels,
    rule_applies=holds_no_other_tensors,
)
register_block(
    'GroupNorm',
    adjust=adjust_group_norm,
    rule=normalise_channels,
    rule_applies=holds_no_other_tensors,
)
