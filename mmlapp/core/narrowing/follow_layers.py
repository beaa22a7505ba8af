# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Blocks that repeat a number of their layers keep repeating it.

A block that merges its branches later builds a convolution of its own
``in_channels``, ``out_channels`` and ``groups``. Where no forward tells which
channels such an attribute counts, its layers do.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..forward_names import forward_names

# Numbers of layers that change when they are narrowed.
NAMES = [
    'in_channels',
    'out_channels',
    'groups',
    'in_features',
    'out_features',
    'num_features',
]
# Those that count channels: one of another name is not a number of groups.
COUNTS = [name for name in NAMES if name != 'groups']
LAYERS = _ConvNd, nn.Linear, _NormBase
# What a number of channels is called by blocks, alone or with more around it.
WORDS = 'channels', 'features', 'planes', 'width', 'dim', 'filters'

Widths = Mapping[nn.Module, Mapping[str, int]]


def widths(model: nn.Module) -> Widths:
    """Returns the numbers of all layers and blocks.

    Args:
        model (nn.Module): A network, before it is narrowed.
    """
    return {
        module: {
            name: value
            for name, value in module.__dict__.items()
            if type(value) is int and _is_number(name)
        }
        for module in model.modules()
    }


def _is_number(name: str) -> bool:
    return name in NAMES or any(word in name for word in WORDS)


def follow_layers(dense: Widths) -> None:
    """Lets blocks repeat the numbers of their layers, in place.

    A block had the number v under a name. If all layers below it that had v
    under this name, or where no layer has such a name under any, have the
    same number now, it gets that one. What has changed already is left alone.

    Args:
        dense (Mapping): What :func:`widths` returned before.
    """
    for block, numbers in dense.items():
        if isinstance(block, LAYERS):
            continue
        for name, value in numbers.items():
            # By a plan or a table of blocks, which know better; what a forward
            # reads is traced, and in the plan.
            changed = getattr(block, name) != value
            if changed or name in forward_names(block):
                continue
            now = {
                getattr(layer, own)
                for layer in block.modules()
                if isinstance(layer, LAYERS)
                for own in ([name] if name in NAMES else COUNTS)
                if dense.get(layer, {}).get(own) == value
            }
            if len(now) == 1:
                setattr(block, name, now.pop())
