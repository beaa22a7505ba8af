# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The mask as a function of thresholds, hard forward and smooth backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from ...segments import Segments


class HardMask(Function):
    r"""The mask :math:`m_i = 1[s_i > t_{g(i)}]` with a surrogate slope.

    Backward :math:`\partial L/\partial t_g = -\sum_{i \in g} h(s_i - t_g)\,
    \partial L/\partial m_i` with the slope h of the surrogate.
    """

    @staticmethod
    def forward(
        ctx: Any,
        threshold: Tensor,
        mask: Tensor,
        slope: Tensor,
        parts: Segments,
    ) -> Tensor:
        """Returns the mask as numbers.

        Args:
            ctx (Any): Autograd context.
            threshold (Tensor): One per group, ``[groups]``.
            mask (Tensor): Which channels live, ``[channels]``.
            slope (Tensor): Surrogate slope at each, ``[channels]``.
            parts (Segments): Where the channels of every group lie.
        """
        ctx.save_for_backward(slope)
        ctx.parts, ctx.dtype = parts, threshold.dtype
        # Not compared anew: the mask that the network ran with counts.
        return mask.to(slope.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient of the thresholds."""
        (grad,) = grads
        (slope,) = ctx.saved_tensors
        # [channels] -> [groups]
        summed = ctx.parts.sum(-grad.to(slope.dtype) * slope)
        return summed.to(ctx.dtype), None, None, None
