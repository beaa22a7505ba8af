# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""VGG with batch norm for 32x32 images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmlapp.core import PruningError
from mmlapp.registry import MODELS

from .stages import check_out_indices, kaiming_init_cfg, spread_widths

CONVS_PER_STAGE = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
STAGE_WIDTHS = (64, 128, 256, 512, 512)
NUM_STAGES = len(STAGE_WIDTHS)


@MODELS.register_module()
class CIFARVGG(BaseModule):
    """VGG with batch norm for 32x32 images: VGG-11, 13, 16 and 19.

    The convolutions of `Very Deep Convolutional Networks for Large-Scale
    Image Recognition <https://arxiv.org/abs/1409.1556>`_, a batch norm after
    each, a max-pool after each stage. The three large linear layers are left
    out, as usual on CIFAR: the head is one linear layer.

    Args:
        depth (int): One of 11, 13, 16 and 19. Defaults to 16, that is 13
            convolutions.
        in_channels (int): Channels of the image. Defaults to 3.
        channels (int | Sequence[int]): Filters of the convolutions: one
            number for all, one per stage or one per convolution.
            Defaults to (64, 128, 256, 512, 512).
        out_indices (Sequence[int]): Stages whose feature maps are returned.
            Defaults to (4, ).
        init_cfg (dict | list[dict], optional): Initialization of the weights.
            Defaults to None: Kaiming for convolutions, one for the scale of
            norms.

    Raises:
        PruningError: If an argument is out of its domain.

    Examples:
        >>> import torch
        >>> from mmlapp.models import CIFARVGG
        >>> model = CIFARVGG(depth=16)
        >>> [tuple(x.shape) for x in model(torch.rand(1, 3, 32, 32))]
        [(1, 512, 1, 1)]
    """

    def __init__(
        self,
        depth: int = 16,
        in_channels: int = 3,
        channels: int | Sequence[int] = STAGE_WIDTHS,
        out_indices: Sequence[int] = (NUM_STAGES - 1,),
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg or kaiming_init_cfg())
        if depth not in CONVS_PER_STAGE:
            raise PruningError(
                f'depth={depth}: expected one of {sorted(CONVS_PER_STAGE)}'
            )
        check_out_indices(out_indices, NUM_STAGES)
        self.depth = depth
        self.out_indices = tuple(out_indices)

        widths = spread_widths('channels', channels, CONVS_PER_STAGE[depth])
        previous = in_channels
        for stage, stage_widths in enumerate(widths):
            layer = make_stage(previous, stage_widths)
            self.add_module(f'layer{stage + 1}', layer)
            previous = stage_widths[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices``, after their pool.

        Args:
            x (Tensor): Images. Shape is ``[N, C, H, W]``.

        Returns:
            tuple[Tensor, ...]: One map per stage. Stage s, from 0, divides
            height and width by ``2**(s + 1)``.
        """
        outs = []
        for stage in range(NUM_STAGES):
            x = getattr(self, f'layer{stage + 1}')(x)
            if stage in self.out_indices:
                outs.append(x)
        return tuple(outs)


def make_stage(in_channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Convolutions of these widths and a max-pool."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        in_channels = width
    return nn.Sequential(*layers, nn.MaxPool2d(2))
