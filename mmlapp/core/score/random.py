# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Random channels: how much does a score matter at all?"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from ..numbers import check_number
from .base import Score, ScoreContext, register_score


@register_score('random')
class RandomScore(Score):
    """Numbers drawn once, when the phase begins: the control of all scores.

    Args:
        seed (int): Of its own random numbers, equal on all processes and
            independent between layers. Defaults to 0.

    Raises:
        PruningError: If ``seed`` is no whole number.
    """

    refresh = 0

    def __init__(self, seed: int = 0) -> None:
        check_number('score random seed', seed, whole=True)
        self.seed = seed

    def __call__(self, context: ScoreContext) -> Tensor:
        """Returns what the seed and the name of the layer give."""
        # One number of both, the same in every process: hash() is not.
        seed = zlib.crc32(f'{self.seed} {context.name}'.encode())
        dice = torch.Generator().manual_seed(seed)
        drawn = torch.rand(len(context.filters), generator=dice)
        return drawn.to(context.filters.device)
