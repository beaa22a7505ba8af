# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Distillation of feature maps, such as those of a detector's neck."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..errors import PruningError
from ..numbers import check_number
from .base import Distillation, as_pair, register_distillation

OTHER_WIDTH = (
    'maps can only be compared where pruning keeps the width. Take a module '
    'whose outputs are not pruned, or ignore the layer that makes them'
)


@register_distillation('mse')
class FeatureMSE(Distillation):
    r"""Mean squared difference of feature maps (FitNets, arXiv 1412.6550).

    .. math:: w\, \frac{1}{N C H W} \sum (s - t)^2

    Args:
        weight (float): w, above 0. Defaults to 1.

    Raises:
        PruningError: If the weight lies outside its range.

    Examples:
        >>> import torch
        >>> one, two = torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
        >>> float(FeatureMSE(weight=5).term(one, two))
        5.0
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = float(check_number('weight', weight, above=0))

    def term(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the loss of one pair of maps.

        Args:
            student (Tensor): Maps, ``[N, C, ...]``.
            teacher (Tensor): Maps of the same shape.

        Raises:
            PruningError: If the maps do not fit each other.
        """
        # In float32 at least: squares of float16 overflow from 256 on.
        pair = as_pair(student, teacher, 'features', OTHER_WIDTH)
        return self.weight * functional.mse_loss(*pair)


@register_distillation('channel_wise')
class ChannelWise(Distillation):
    r"""Where each channel looks, as a distribution (CWD, arXiv 2011.13256).

    With :math:`\varphi` the softmax over the positions of one channel,

    .. math:: w\, \frac{T^2}{N C} \sum_{n, c} \mathrm{KL}\bigl(
              \varphi(t_{nc} / T) \,\|\, \varphi(s_{nc} / T)\bigr).

    The scale of a channel counts, a constant added to it does not.

    Args:
        weight (float): w, above 0. Defaults to 1.
        temperature (float): T, above 0; the larger, the more positions
            count. Defaults to 1.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> import torch
        >>> maps = torch.rand(1, 2, 3, 3)
        >>> float(ChannelWise().term(maps, maps + 1).abs() < 1e-6)
        1.0
    """

    def __init__(self, weight: float = 1.0, temperature: float = 1.0) -> None:
        self.weight = float(check_number('weight', weight, above=0))
        self.temperature = float(
            check_number('temperature', temperature, above=0)
        )

    def term(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the loss of one pair of maps.

        Args:
            student (Tensor): Maps, ``[N, C, H, W]`` or ``[N, C, ...]``.
            teacher (Tensor): Maps of the same shape.

        Raises:
            PruningError: If the maps do not fit each other, or have no
                positions.
        """
        pair = as_pair(student, teacher, 'features', OTHER_WIDTH)
        if student.ndim < 3:
            raise PruningError(
                f'student features of shape {tuple(student.shape)}: '
                'channel_wise compares positions of a map, [N, C, H, W]. '
                'Take mse for vectors'
            )
        # [N, C, H, W] -> [N C, H W]: a distribution over positions each.
        log_p, log_q = (
            functional.log_softmax(
                maps.flatten(2).flatten(0, 1) / self.temperature, dim=1
            )
            for maps in pair
        )
        # 'batchmean' divides by the first dimension, which is N C here: the
        # formula's 1 / (N C) of a sum over positions.
        divergence = functional.kl_div(
            log_p, log_q, reduction='batchmean', log_target=True
        )
        return self.weight * self.temperature**2 * divergence
