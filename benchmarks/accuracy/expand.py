# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every tenth image in the variants of the recipes for few images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from mmlapp.datasets import ExpandedDataset

RECIPE = (
    Path(__file__).resolve().parents[2]
    / 'configs/_base_/datasets/cifar10-folder-tenth-expanded_bs128.py'
)


class Arrays:
    """Images in memory, as what comes first in a pipeline.

    Args:
        pixels (Tensor): uint8, ``[N, 3, H, W]``.
    """

    def __init__(self, pixels: Tensor) -> None:
        # OpenCV wants [H, W, C].
        self.pixels = pixels.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.pixels[index]
        return {
            'img': image,
            'img_shape': image.shape[:2],
            'ori_shape': image.shape[:2],
        }


def tenth_expanded(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What the recipes for a tenth of CIFAR-10 train on.

    Args:
        pair (tuple[Tensor, Tensor]): Pixels, uint8 ``[N, 3, H, W]``, and
            labels ``[N]``, class by class.

    Returns:
        tuple[Tensor, Tensor]: Every tenth in all variants, one variant after
        another.
    """
    # Class by class: every tenth image is a tenth of each class.
    pixels, labels = (tensor[::10] for tensor in pair)
    recipe = Config.fromfile(RECIPE).train_dataloader.dataset
    data: Any = Arrays(pixels)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        data = ExpandedDataset(data, recipe.variants)
        images = np.stack([data[i]['img'] for i in range(len(data))])
    found = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return found, labels.repeat(len(recipe.variants))
