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
LAYERS = _ConvNd, nn.Linear, _NormBase

Widths = Mapping[nn.Module, Mapping[str, int]]


def widths(model: nn.Module) -> Widths:
    """Returns the numbers of all layers and blocks.

    Args:
        model (nn.Module): A network, before it is narrowed.
    """
    return {
        module: {
            name: value
            for name in NAMES
            if type(value := module.__dict__.get(name)) is int
        }
        for module in model.modules()
    }


def follow_layers(dense: Widths) -> None:
    """Lets blocks repeat the numbers of their layers, in place.

    A block had the number v under a name. If all layers below it that had v
    under this name have the same number now, it gets that one. What has
    changed already is left alone.

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
                getattr(layer, name)
                for layer in block.modules()
                if isinstance(layer, LAYERS)
                and dense.get(layer, {}).get(name) == value
            }
            if len(now) == 1:
                setattr(block, name, now.pop())
