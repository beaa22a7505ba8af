# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The L2 norm over channels behind SSD's first map, of mmdet."""

from __future__ import annotations

from typing import Any

from .channel_norms import normalise_channels
from .registry import register_block
from .shapes import shape_of


def adjust_l2_norm(module: Any) -> None:
    """Its scale is one number per channel."""
    module.n_dims = shape_of(module, 'weight')[0]


register_block('L2Norm', adjust=adjust_l2_norm, rule=normalise_channels)
