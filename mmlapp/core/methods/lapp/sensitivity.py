# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the task loss says about moving a threshold, per unit of cost."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...segments import Segments
from ..channel_costs import size_of


@dataclass(frozen=True)
class Margin:
    """The channels around the thresholds, at one step.

    Args:
        gate (Tensor): Gradient of the task loss by the mask, ``[channels]``.
        slope (Tensor): Surrogate slope at every channel, ``[channels]``.
        mask (Tensor): Which channels live, ``[channels]``.
        parts (Segments): Where the channels of every group lie.
        cost (Tensor): Gradient of the log cost by the thresholds,
            ``[groups]``.
    """

    gate: Tensor
    slope: Tensor
    mask: Tensor
    parts: Segments
    cost: Tensor

    def per_group(self, values: Tensor) -> Tensor:
        """Sums values of channels, ``[channels]`` to ``[groups]``."""
        return self.parts.sum(values.to(self.cost.dtype))


def gradient(margin: Margin) -> Tensor:
    r"""Gradient of the task loss by the thresholds, per unit of cost.

    .. math:: q_g = \frac{-\sum_{i \in g} h_i\, p_i}{|f_g|}, \quad
              p_i = \partial L / \partial m_i

    Args:
        margin (Margin): The channels around the thresholds.

    Returns:
        Tensor: Signed, ``[groups]``.
    """
    # m_i = step(s_i - t_g), so dm_i/dt_g = -h_i: dL/dt_g = -sum h_i p_i.
    return margin.per_group(-margin.slope * margin.gate) / size_of(margin.cost)


def curvature(margin: Margin) -> Tensor:
    r"""Rise of the task loss where marginal channels go, per unit of cost.

    By Fisher's approximation of the curvature the loss rises by
    :math:`p_i^2 / 2`, up to a factor common to all groups, when channel i
    goes (arXiv 1906.10771, 2108.00708). With the mean over the living
    channels at the threshold and the cost of one channel there,

    .. math:: q_g = \frac{\sum_i h_i m_i p_i^2 / \sum_i h_i m_i}
              {|f_g| / \sum_i h_i} .

    In a group without living channels all count: :math:`p_i` is then what
    the loss would fall by, to first order, if a channel came back.

    Args:
        margin (Margin): The channels around the thresholds.

    Returns:
        Tensor: Not negative, ``[groups]``.
    """
    # Loss without channel i: L - p_i + H_ii / 2. Training drives p_i to noise
    # around zero; Fisher gives H_ii ~ p_i^2. The half is common to all.
    return _at_the_margin(margin, margin.gate.square())


def magnitude(margin: Margin) -> Tensor:
    r"""Change of the task loss where marginal channels go, per unit of cost.

    The first-order Taylor criterion of arXiv 1611.06440: :math:`|p_i|` in
    the place of :math:`p_i^2` in :func:`curvature`. Of channels that are
    many, each of which says little, the square makes still less: together
    they may say as much as few that say more.

    Args:
        margin (Margin): The channels around the thresholds.

    Returns:
        Tensor: Not negative, ``[groups]``.
    """
    return _at_the_margin(margin, margin.gate.abs())


def _at_the_margin(margin: Margin, harm: Tensor) -> Tensor:
    """Mean harm of a living channel at the threshold over its cost.

    Args:
        margin (Margin): The channels around the thresholds.
        harm (Tensor): Of every channel, ``[channels]``.

    Returns:
        Tensor: Shape ``[groups]``.
    """
    # [groups]; looked up by channel below.
    empty = margin.per_group(margin.mask) == 0
    counted = margin.mask.bool() | empty[margin.parts.owner]
    # Where no living channel lies under the slope, all of them count.
    near = (margin.slope + 1e-6) * counted
    # Weighted mean over the channels at the threshold, [groups].
    mean = margin.per_group(near * harm)
    mean = mean / margin.per_group(near).clamp_min(1e-12)
    # |f_g| = sum h_i c_i with c_i = d log F / dm_i, so that
    # |f_g| / sum h_i is the cost of one channel there.
    return mean * margin.per_group(margin.slope) / size_of(margin.cost)


SENSITIVITIES = {
    'curvature': curvature,
    'magnitude': magnitude,
    'gradient': gradient,
}
