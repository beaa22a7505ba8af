# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores from the gradient of the task loss."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import ScoreContext, register_score


@register_score('taylor')
def taylor(channels: ScoreContext) -> Tensor:
    r"""First-order Taylor expansion of the loss (arXiv 1906.10771).

    :math:`(\sum_d g_{nd} w_{nd})^2`. Before the first backward, when no
    gradient exists, every channel scores alike.
    """
    if channels.gradient is None:
        return torch.ones_like(channels.filters[:, 0])
    # To first order the loss changes by -<g_n, w_n>: [N, D] -> [N]. The
    # square makes a rise and a fall alike.
    return (channels.filters * channels.gradient).sum(dim=1).square()
