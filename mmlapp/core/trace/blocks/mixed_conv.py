# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Convolutions of several sizes side by side (arXiv 1907.09595), of timm."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import inputs_of


def adjust_mixed_conv(module: Any) -> None:
    """Widths of the pieces that its convolutions read, each its own."""
    # Depthwise pieces of 3 and 2 channels: weights [3, 1, ..] with 3 groups
    # and [2, 1, ..] with 2, splits [3, 2].
    module.splits = [inputs_of(conv) for conv in module.children()]


register_block(
    'MixedConv2d', adjust=adjust_mixed_conv, cuts_by_attributes=True
)
