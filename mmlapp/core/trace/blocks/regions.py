# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pooling of regions by MMCV, custom autograd functions with hidden kernels.

The operators of torchvision have their rules in ../rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..rules.regions import pool_regions
from ..tracer import Tracer
from .registry import register_function


def pool_by_mmcv(
    tracer: Tracer, arguments: Mapping[str, Any], out: Tensor
) -> None:
    """``RoIAlignFunction.forward`` of MMCV, and that of ``RoIPool``."""
    pool_regions(tracer, arguments['input'], arguments['rois'], [out])


register_function('RoIAlignFunction', 'RoIPoolFunction', rule=pool_by_mmcv)
