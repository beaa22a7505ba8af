# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Deformable convolutions of MMCV and torchvision.

Those of MMCV are custom autograd functions with hidden kernels. The one of
torchvision is an operator, whose rule is in ../rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..rules.deformable import deform
from ..tracer import Tracer
from .layers import adjust_convolution
from .registry import register_block, register_function


def deform_by_mmcv(
    tracer: Tracer, arguments: Mapping[str, Any], out: Tensor
) -> None:
    """``(Modulated)DeformConv2dFunction.forward`` of MMCV."""
    bias = arguments.get('bias')  # False says none
    deform(
        tracer,
        arguments['input'],
        arguments['weight'],
        bias if isinstance(bias, Tensor) else None,
        (arguments['offset'], arguments.get('mask')),
        int(arguments['groups']),
        int(arguments['deform_groups']),
        out,
        **{
            name: _both(arguments[name])
            for name in ('stride', 'padding', 'dilation')
        },
        masked='mask' in arguments,
        operator='mmcv',
    )


def _both(value: Any) -> tuple[int, ...]:
    """For height and width, of one number too."""
    return (value, value) if isinstance(value, int) else tuple(value)


register_block(
    'DeformConv2d', 'ModulatedDeformConv2d', adjust=adjust_convolution
)
register_function(
    'DeformConv2dFunction',
    'ModulatedDeformConv2dFunction',
    rule=deform_by_mmcv,
)
