# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Cross stage partial networks (arXiv 1911.11929), of timm."""

from __future__ import annotations

from typing import Any

from .registry import register_block


def adjust_cross_stage(module: Any) -> None:
    """Twice the width of the halves that it splits its channels into."""
    # What it emits, which may be more than its filters compute: a branch
    # beside it fills up the others. Layers are adjusted before their blocks.
    module.expand_chs = module.conv_exp.conv.out_channels


register_block('CrossStage', 'CrossStage3', adjust=adjust_cross_stage)
