# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a network costs, by torch's own counter."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def flops(model: nn.Module) -> int:
    """FLOPs of a network on one image, as it is: branches count.

    Args:
        model (nn.Module): The network; masks do not make it cheaper.
    """
    training = model.training
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32, device=device))
    model.train(training)
    return counter.get_total_flops()
