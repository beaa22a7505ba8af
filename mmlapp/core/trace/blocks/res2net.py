# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Res2Net's block (arXiv 1904.01169), of mmpretrain and mmdet."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import shape_of


def adjust_res2net(module: Any) -> None:
    """Width of the pieces that it splits its channels into.

    All pieces are as wide as the first: one number cannot make them differ,
    so the cut ties them.
    """
    # Not grouped, [width, width, 3, 3].
    module.width = shape_of(module.convs[0], 'weight')[1]


register_block('Bottle2neck', adjust=adjust_res2net)
