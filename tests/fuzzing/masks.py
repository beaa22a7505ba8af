# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Masks that a pruning phase might end with."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from mmlapp.core import Pruner

Count = Callable[[Random, int, int, int], int]
# Name: how many channels stay of (number of the group, its size, its floor).
COUNTS: dict[str, Count] = {
    'random': lambda rng, number, size, floor: rng.randint(floor, size),
    'one left': lambda rng, number, size, floor: floor,
    'one gone': lambda rng, number, size, floor: max(floor, size - 1),
    'half': lambda rng, number, size, floor: max(floor, size // 2),
    'every other group': lambda rng, number, size, floor: (
        floor if number % 2 else size
    ),
    'extremes': lambda rng, number, size, floor: rng.choice((floor, size)),
}


def draw_mask(pruner: Pruner, rng: Random, name: str) -> Tensor:
    """Chooses which channels of every group live, bool ``[channels]``.

    Args:
        pruner (Pruner): Of the network.
        rng (Random): Chooses them.
        name (str): How many of them: one of ``COUNTS``.
    """
    parts = []
    for number, info in enumerate(pruner.groups):
        count = COUNTS[name](rng, number, info.size, info.floor)
        part = torch.zeros(info.size, dtype=torch.bool)
        part[rng.sample(range(info.size), count)] = True
        parts.append(part)
    return torch.cat(parts)
