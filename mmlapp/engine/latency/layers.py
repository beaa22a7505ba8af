# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Runs one layer of a network alone, at any width."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mmlapp.core import PruningError
from mmlapp.core.trace import LayerCall

from .deformable import WINDOW, deformable_run
from .onnx_layers import onnx_run
from .setting import Setting
from .shapes import Shape, is_transposed, shape_at

Run = Callable[[], object]


def layer_run(
    call: LayerCall, widths: Mapping[str, int], setting: Setting
) -> Run:
    """Returns a function that runs one layer at some widths.

    Args:
        call (LayerCall): The layer with all channels.
        widths (Mapping[str, int]): What is left of some dimensions.
        setting (Setting): Backend, threads and device.

    Raises:
        PruningError: If the backend runs no such layer.
    """
    shape = shape_at(call, widths)
    make = BACKENDS.get(setting.backend)
    if make is None:
        raise PruningError(
            f'backend={setting.backend!r}: layers are measured with '
            f'{" or ".join(BACKENDS)}'
        )
    return make(call, shape, setting)


def _torch_run(call: LayerCall, shape: Shape, setting: Setting) -> Run:
    x, weight = (
        torch.rand(size, device=setting.device)
        for size in (shape.inputs, shape.weight)
    )
    if call.op == 'product':
        return _torch_product(x, weight)
    if 'offset_groups' in call.geometry:
        return deformable_run(call, x, weight, shape.groups)
    stride, padding, dilation = (list(call.geometry[key]) for key in WINDOW)
    # The one operator that all convolutions of torch end in.
    zeros = [0] * len(stride)
    arguments = stride, padding, dilation, is_transposed(call), zeros

    def run() -> Tensor:
        with torch.inference_mode():
            return torch.convolution(x, weight, None, *arguments, shape.groups)

    return run


def _torch_product(x: Tensor, weight: Tensor) -> Run:
    # Both factors are activations, and have a batch.
    if weight.dim() > 2:
        return lambda: torch.matmul(x, weight)
    # A linear layer keeps its weight as [out, in].
    stored = weight.t().contiguous()

    def run() -> Tensor:
        with torch.inference_mode():
            return functional.linear(x, stored)

    return run


BACKENDS: dict[str, Callable[[LayerCall, Shape, Setting], Run]] = {
    'torch': _torch_run,
    'onnxruntime': onnx_run,
}
