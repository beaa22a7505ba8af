# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the dimensions of a layer's tensors mean, which shapes do not tell.

A weight ``[8, 8, 3, 3]`` has its outputs first in a convolution and last in a
transposed one; ``[8, 4]`` of a linear layer are outputs and inputs, of an
embedding words and channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ..trace import TABLES

# The first that fits counts. What replaces a layer without another meaning is
# of one kind with it: synchronised norms, subclasses. Dimensions of other
# modules mean what their own code says, whatever it is.
KINDS: dict[str, type[nn.Module] | tuple[type[nn.Module], ...]] = {
    'transposed convolution': _ConvTransposeNd,
    'convolution': _ConvNd,
    'linear layer': nn.Linear,
    'bilinear layer': nn.Bilinear,
    'embedding': TABLES,
    'batch norm': _BatchNorm,
    'instance norm': _InstanceNorm,
    'group norm': nn.GroupNorm,
    'layer norm': nn.LayerNorm,
    'PReLU': nn.PReLU,
}
# In how many parts channels are computed, by the name of the attribute.
PARTS = 'groups', 'num_groups'


def layer_kinds(
    model: nn.Module, without: Sequence[str] = ()
) -> dict[str, str]:
    """Returns the kind of every layer of a kind that is known.

    Args:
        model (nn.Module): The network, prunable or plain.
        without (Sequence[str]): Beginnings of names to leave out, such as
            ``pruner.``. Defaults to none.

    Examples:
        >>> layer_kinds(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU()))
        {'0': 'convolution in 2 groups'}
    """
    found = {
        name: _kind_of(module)
        for name, module in model.named_modules(remove_duplicate=False)
        if not f'{name}.'.startswith(tuple(without))
    }
    return {name: kind for name, kind in found.items() if kind is not None}


def _kind_of(layer: nn.Module) -> str | None:
    for kind, classes in KINDS.items():
        if isinstance(layer, classes):
            parts = [int(getattr(layer, name, 1)) for name in PARTS]
            # A layer has one of both: [1, 1], [2, 1] or [1, 2].
            return kind + f' in {max(parts)} groups' * (max(parts) > 1)
    return None
