# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""HorNet's norm over channels (arXiv 2207.14284), of mmpretrain."""

from __future__ import annotations

from .channel_norms import adjust_layer_norm, normalise_channels
from .registry import register_block

register_block(
    'HorNetLayerNorm', adjust=adjust_layer_norm, rule=normalise_channels
)
