# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""HorNet's recursive gated convolution (arXiv 2207.14284), of mmpretrain."""

from __future__ import annotations

from typing import Any

from .channel_norms import adjust_layer_norm, normalise_channels
from .registry import register_block
from .shapes import shape_of


def adjust_hornet(module: Any) -> None:
    """Widths of the pieces that it splits its channels into.

    Projection i reads piece i and emits as many channels as piece i + 1 has,
    which it is multiplied by: n - 1 projections tell the widths of n pieces.
    """
    # Weights [out, in, 1, 1] of [32, 16] and [64, 32]: dims [16, 32, 64].
    shapes = [shape_of(conv, 'weight') for conv in module.projs]
    module.dims = [shape[1] for shape in shapes] + [shapes[-1][0]]


register_block('gnConv', adjust=adjust_hornet, cuts_by_attributes=True)
register_block(
    'HorNetLayerNorm', adjust=adjust_layer_norm, rule=normalise_channels
)
