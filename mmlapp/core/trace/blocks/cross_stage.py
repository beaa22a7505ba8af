# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Cross stage partial networks (arXiv 1911.11929), of timm."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import shape_of


def adjust_cross_stage(module: Any) -> None:
    """Twice the width of the halves that it splits its channels into."""
    module.expand_chs = shape_of(module.conv_exp.conv, 'weight')[0]


register_block('CrossStage', 'CrossStage3', adjust=adjust_cross_stage)
