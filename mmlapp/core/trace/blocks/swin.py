# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Swin (arXiv 2103.14030), of mmpretrain and mmdet."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import shape_of


def adjust_swin(module: Any) -> None:
    """Widths of the stages whose outputs it reshapes."""
    widths = list(module.num_features)
    for i in module.out_indices:
        widths[i] = shape_of(getattr(module, f'norm{i}'), 'weight')[0]
    module.num_features = widths


register_block('SwinTransformer', adjust=adjust_swin)
