# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Levels of features that boxes are looked up in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NAME = 'map_roi_levels'


@contextmanager
def levels_in_turn(model: nn.Module) -> Iterator[None]:
    """Deals boxes to all levels of features in turn, whatever their sizes.

    Small boxes are looked up in large features. On one image not every level
    may get a box, and what reads it would not be seen.

    Args:
        model (nn.Module): Any model; one that pools no boxes is left alone.
    """
    pools = [
        module
        for module in model.modules()
        if hasattr(type(module), NAME) and NAME not in vars(module)
    ]
    for module in pools:
        # On the object, before the method of its class, and without a self.
        setattr(module, NAME, in_turn)
    try:
        yield
    finally:
        for module in pools:
            delattr(module, NAME)


def in_turn(rois: Tensor, num_levels: int) -> Tensor:
    """Returns a level for every box, as ``map_roi_levels`` of mmdet does.

    Args:
        rois (Tensor): Boxes, ``[n, 5]``.
        num_levels (int): How many levels there are.

    Examples:
        >>> in_turn(torch.rand(5, 5), 3).tolist()
        [0, 1, 2, 0, 1]
    """
    # Box i gets level i mod num_levels, [n]: every level is read as soon as
    # there are as many boxes as levels.
    return torch.arange(len(rois), device=rois.device) % num_levels
