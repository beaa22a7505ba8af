# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores from the gradient of the task loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ..numbers import check_number
from .base import Score, ScoreContext, register_score


@register_score('taylor')
class Taylor(Score):
    r"""Rise of the loss where a channel goes (arXiv 1906.10771).

    The mean over steps of :math:`p^2`, :math:`p = \partial L / \partial m =
    \langle \partial L / \partial w, w \rangle` over all that emits the
    channel: the norm behind a layer where there is one, for the loss does
    not change with the length of a filter that a norm follows. Before the
    first backward every channel scores alike.

    Args:
        memory (float): Steps over which the mean runs, as a share of the
            phase. Defaults to 0.1.

    Raises:
        PruningError: If ``memory`` is not positive.
    """

    uses_gradient = True

    def __init__(self, memory: float = 0.1) -> None:
        check_number('score taylor memory', memory, above=0)
        self.memory = memory

    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns the harm."""
        if context.harm is None:
            # [N, D] -> [N], all alike.
            return torch.ones_like(context.filters[:, 0])
        return context.harm
