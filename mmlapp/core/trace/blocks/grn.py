# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Global response normalisation, of ConvNeXt V2 (arXiv 2301.00808)."""

from __future__ import annotations

from typing import Any

from .channel_norms import normalise_channels
from .registry import register_block
from .shapes import shape_of


def adjust_grn(module: Any) -> None:
    """Its scale is one number per channel."""
    module.in_channels = shape_of(module, 'gamma')[0]


register_block('GRN', adjust=adjust_grn, rule=normalise_channels)
