# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes in which modules keep the width of what they read or return.

Other methods than forward may read them: one that merges branches builds a
layer of ``self.in_channels``, a head is built of ``backbone.out_channels``.
They follow the channels that the attribute counts. What a forward reads
itself stays as the trace saw it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..forward_names import forward_names
from .blocks.registry import is_known
from .tracer import Tracer

# Names that say on which side the channels are that they count.
READ = [
    'c1',
    'c_in',
    'cin',
    'in_c',
    'in_ch',
    'in_channel',
    'in_channels',
    'in_chs',
    'in_features',
    'in_dim',
    'in_dims',
    'in_planes',
    'inp',
    'inplanes',
    'input_channels',
    'input_dim',
    'n_in',
    'nin',
    'channels',
    'dim',
    'dims',
    'embed_dim',
    'embed_dims',
    'd_model',
]
RETURNED = [
    'c2',
    'c_out',
    'cout',
    'out_c',
    'out_ch',
    'out_channel',
    'out_channels',
    'out_chs',
    'out_features',
    'out_dim',
    'out_dims',
    'oup',
    'output_channels',
    'output_dim',
    'n_out',
    'nout',
    'planes',
]
GROUPS = 'groups'
NAMES = frozenset([*READ, *RETURNED, GROUPS])


def note_widths(
    tracer: Tracer, module: nn.Module, inputs: Any, output: Any
) -> None:
    """Notes which channels the attributes of a module count.

    Args:
        tracer (Tracer): Receives names and labels.
        module (nn.Module): Has just run. One that is registered sets its
            attributes itself.
        inputs (Sequence): Its positional arguments.
        output (Any): What it returned.
    """
    # Most modules keep none.
    if NAMES.isdisjoint(vars(module)) or is_known(module):
        return
    taken = _followed(module)
    first = inputs[0] if inputs else None
    read = READ if _has_grouped(module) else [*READ, GROUPS]
    for names, value in ((read, first), (RETURNED, output)):
        for name in names:
            width = None if name in taken else vars(module).get(name)
            ids = _channels(tracer, value, width)
            if ids is not None:
                full = f'{tracer.modules[id(module)]}.{name}'.lstrip('.')
                tracer.trace.widths.setdefault(full, []).append(ids)


def _followed(module: nn.Module) -> frozenset[str]:
    """Names that the trace itself follows, as a forward reads them.

    That of PyTorch compares the width of its inputs, unseen by the trace.
    """
    if isinstance(module, nn.Transformer):
        return frozenset()
    return forward_names(module)


def _has_grouped(block: nn.Module) -> bool:
    """Whether a layer below has as many groups as the block says.

    If not, as where a norm is all that is left of a depthwise block, the
    groups are as many as the channels that it reads.
    """
    wanted = vars(block).get(GROUPS)
    return any(
        vars(layer).get(GROUPS) == wanted
        for layer in block.modules()
        if layer is not block
    )


def _channels(tracer: Tracer, value: Any, width: Any) -> Tensor | None:
    """Labels of the only dimension of a tensor that has this width."""
    if not isinstance(width, int):
        return None
    # Backbones return a tuple of features; of several, none is meant.
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor):
        return None
    axes = tracer.labels(value).axes
    found = [axis.ids for d, axis in axes.items() if value.shape[d] == width]
    return found[0] if len(found) == 1 else None
