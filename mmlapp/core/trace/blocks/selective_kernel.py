# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Selective kernel networks (arXiv 1903.06586), of timm."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import inputs_of


def adjust_selective_kernel(module: Any) -> None:
    """Channels that it may split into one piece for every path."""
    paths = module.num_paths if module.split_input else 1
    # 8 channels split for 2 paths: each reads 4. Unsplit each reads all 8.
    module.in_channels = inputs_of(module.paths[0].conv) * paths


register_block('SelectiveKernel', adjust=adjust_selective_kernel)
