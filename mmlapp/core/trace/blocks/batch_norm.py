# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Batch and instance norms; the rule of their operators is in ../rules."""

from __future__ import annotations

from typing import Any

from .registry import register_block
from .shapes import shape_of


def adjust_batch_norm(module: Any) -> None:
    """One without tensors of its own takes any number of channels."""
    if module.affine or module.running_mean is not None:
        name = 'weight' if module.affine else 'running_mean'
        module.num_features = shape_of(module, name)[0]


register_block('_NormBase', adjust=adjust_batch_norm)
