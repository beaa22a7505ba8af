# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""EdgeNeXt's encoder with split depthwise convolutions (arXiv 2206.10589)."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import shape_of


def adjust_edgenext(module: Any) -> None:
    """Width of the pieces that it splits its channels into, all alike."""
    # Depthwise, [width, 1, 3, 3]: a row for each channel of a piece.
    module.conv_channels = shape_of(module.conv_modules[0], 'weight')[0]


register_block('SDTAEncoder', adjust=adjust_edgenext)
