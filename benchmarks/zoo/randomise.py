# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Random parameters and statistics, as far from the initial ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Gives every parameter and statistic of a network a random value.

    Initial values hide errors: a scale of one, a shift of zero, a branch
    that begins with zero. The variance of weights is the inverse of their
    fan-in, so that deep networks neither explode nor vanish.

    Args:
        model (nn.Module): The network, changed in place.

    Returns:
        nn.Module: The same object.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            _fill(parameter, name)
        if isinstance(getattr(module, 'running_var', None), Tensor):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(getattr(module, 'weight_gamma', None), Tensor):
            # mmcv's ConvAWS2d scales standardised filters by buffers, which
            # checkpoints of other convolutions set.
            fan_in = module.weight[0].numel()
            module.weight_gamma.uniform_(0.5, 1.5).mul_(1.2 / fan_in**0.5)
            module.weight_beta.normal_(0, 0.1 / fan_in**0.5)
    return model


@torch.no_grad()
def shake(model: nn.Module) -> nn.Module:
    """Changes every parameter in its last digits, as rounding does.

    Args:
        model (nn.Module): The network, changed in place.

    Returns:
        nn.Module: The same object.
    """
    for parameter in model.parameters():
        step = torch.finfo(parameter.dtype).eps
        # One digit up or down, or as it was.
        parameter.mul_(1 + step * torch.randint_like(parameter, -1, 2))
    return model


def _fill(parameter: Tensor, name: str) -> None:
    if parameter.dim() > 1 and parameter[0].numel() > 1:
        parameter.normal_(0, math.sqrt(1.5 / parameter[0].numel()))
    elif name == 'bias':
        parameter.normal_(0, 0.3)
    else:
        parameter.uniform_(0.5, 1.5)
