# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a narrowed module's own tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized


def shape_of(module: Any, name: str) -> tuple[int, ...]:
    """Shape of a parameter or buffer.

    Read from the tables of the module: the attribute of a masked parameter
    is computed. So is that of a parametrised one, which is in no table: in
    evaluation mode, for some count how often they compute.
    """
    if is_parametrized(module, name):
        steps = [m for m in module.parametrizations.modules() if m.training]
        for step in steps:
            step.training = False
        shape = tuple(getattr(module, name).shape)
        for step in steps:
            step.training = True
        return shape
    tensor: Tensor | None = module._parameters.get(name)
    tensor = module._buffers[name] if tensor is None else tensor
    assert tensor is not None
    return tuple(tensor.shape)


def inputs_of(conv: Any) -> int:
    """Channels that a convolution reads: its weight is [out, in/g, ...]."""
    return shape_of(conv, 'weight')[1] * int(conv.groups)
