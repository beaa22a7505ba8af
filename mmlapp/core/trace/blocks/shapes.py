# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sizes of a narrowed module's own tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

# What PyTorch's hooks compute a weight from, that has the shape of it:
# spectral_norm and prune of `weight_orig`, weight_norm of `weight_v`.
COMPUTED_FROM = 'orig', 'v'


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
    for key in (name, *(f'{name}_{part}' for part in COMPUTED_FROM)):
        tensor: Tensor | None = module._parameters.get(key)
        tensor = module._buffers.get(key) if tensor is None else tensor
        if tensor is not None:
            return tuple(tensor.shape)
    raise KeyError(name)


def inputs_of(conv: Any) -> int:
    """Channels that a convolution reads: its weight is [out, in/g, ...]."""
    return shape_of(conv, 'weight')[1] * int(conv.groups)
