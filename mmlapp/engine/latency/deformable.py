# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Deformable convolutions, which read at places that move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from mmlapp.core.trace import LayerCall

# Of a convolution, each a number for every dimension.
WINDOW = 'stride', 'padding', 'dilation'


def deformable_run(
    call: LayerCall, x: Tensor, weight: Tensor, groups: int
) -> Callable[[], Tensor]:
    """Returns a function that runs the operator which the network calls.

    Args:
        call (LayerCall): The layer with all channels.
        x (Tensor): Its input, ``[n, c, h, w]``.
        weight (Tensor): Its weight, ``[out, c / groups, kh, kw]``.
        groups (int): Of the narrow layer.
    """
    read = {k: v.to(x.device) for k, v in places(call, len(x)).items()}
    operator = OPERATORS[call.geometry['operator']]
    geometry = {**call.geometry, 'groups': groups}

    def run() -> Tensor:
        with torch.inference_mode():
            return operator(x, weight, geometry, read)

    return run


def places(call: LayerCall, images: int) -> dict[str, Tensor]:
    """Makes up what a deformable convolution reads beside its input.

    Args:
        call (LayerCall): The layer.
        images (int): Images at once.

    Returns:
        dict[str, Tensor]: ``offset``, ``[images, 2 * fields * kh * kw, h,
        w]``, and if the layer has factors ``mask``, which has half as many
        channels.
    """
    count = call.geometry['offset_groups'] * math.prod(call.weight[2:])
    size = call.outputs[2:]
    # Of a pixel or so, as trained ones are: zeros would be read in order.
    found = {'offset': torch.randn(images, 2 * count, *size)}
    if call.geometry['masked']:
        found['mask'] = torch.rand(images, count, *size)
    return found


def _by_mmcv(
    x: Tensor,
    weight: Tensor,
    geometry: Mapping[str, Any],
    read: Mapping[str, Tensor],
) -> Tensor:
    ops: Any = import_module('mmcv.ops')
    rest = [geometry[key] for key in (*WINDOW, 'groups', 'offset_groups')]
    offset, mask = read['offset'], read.get('mask')
    found: Tensor = (
        ops.deform_conv2d(x, offset, weight, *rest)
        if mask is None
        else ops.modulated_deform_conv2d(x, offset, mask, weight, None, *rest)
    )
    return found


def _by_torchvision(
    x: Tensor,
    weight: Tensor,
    geometry: Mapping[str, Any],
    read: Mapping[str, Tensor],
) -> Tensor:
    ops: Any = import_module('torchvision.ops')
    window = [geometry[key] for key in WINDOW]
    # Groups follow from the shapes: those of the weight from x and weight,
    # those of the offsets from the channels of these.
    found: Tensor = ops.deform_conv2d(
        x, read['offset'], weight, None, *window, read.get('mask')
    )
    return found


# By `operator` in the geometry of a call.
OPERATORS = {'mmcv': _by_mmcv, 'torchvision': _by_torchvision}
