# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Residual networks for CIFAR, He et al. 2015, section 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmlapp.core import PruningError
from mmlapp.registry import MODELS

from .stages import (
    check_out_indices,
    check_positive,
    kaiming_init_cfg,
    spread_widths,
)

NUM_STAGES = 3
CONVS_PER_BLOCK = 2


class PadShortcut(nn.Module):
    """Shortcut of option A: subsample in space, pad channels with zeros.

    Input channel ``i`` stays channel ``i``; the new channels come last. It has
    no parameter and costs no multiply-add.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output, not fewer than
            ``in_channels``.
        stride (int): Step of the subsampling in both directions.
            Defaults to 1.

    Raises:
        PruningError: If ``out_channels`` is smaller than ``in_channels``.

    Examples:
        >>> import torch
        >>> from mmlapp.models import PadShortcut
        >>> PadShortcut(16, 32, stride=2)(torch.rand(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1
    ) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise PruningError(
                f'out_channels={out_channels}: padding cannot remove '
                f'channels; expected at least in_channels={in_channels}'
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Shape is ``[N, C_in, H, W]`` to ``[N, C_out, H/s, W/s]``."""
        x = x[:, :, :: self.stride, :: self.stride]
        new_channels = self.out_channels - self.in_channels
        return nn.functional.pad(x, (0, 0, 0, 0, 0, new_channels))

    def extra_repr(self) -> str:
        """Arguments as ``print(model)`` shows them."""
        return f'{self.in_channels}, {self.out_channels}, stride={self.stride}'


def conv_shortcut(
    in_channels: int, out_channels: int, stride: int
) -> nn.Module:
    """Shortcut of option B: 1x1 convolution and batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


SHORTCUTS = {'A': PadShortcut, 'B': conv_shortcut}


class BasicBlock(BaseModule):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels (int): Channels of the input.
        mid_channels (int): Channels between the two convolutions.
        out_channels (int): Channels of the output.
        stride (int): Stride of the first convolution and of the shortcut.
            Defaults to 1.
        downsample (nn.Module, optional): What the shortcut applies to the
            input. Defaults to None, the identity.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, mid_channels, 3, stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(mid_channels)
        self.conv2 = nn.Conv2d(
            mid_channels, out_channels, 3, padding=1, bias=False
        )
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Shape is ``[N, C_in, H, W]`` to ``[N, C_out, H/s, W/s]``."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + identity)


@MODELS.register_module()
class CIFARResNet(BaseModule):
    """ResNet for 32x32 images: ResNet-20, 32, 44, 56 and 110.

    A 3x3 stem and three stages of ``(depth - 2) / 6`` basic blocks with 1, 2
    and 4 times ``base_channels`` channels, after
    `Deep Residual Learning for Image Recognition
    <https://arxiv.org/abs/1512.03385>`_, section 4.2. The classifier is left
    to the head.

    Args:
        depth (int): Number of weighted layers, 6n + 2, classifier included.
            Defaults to 20.
        shortcut (str): Shortcut where the width changes: ``'A'`` pads with
            zeros and has no parameter (the paper's choice on CIFAR), ``'B'``
            is a 1x1 convolution with batch norm. Defaults to ``'A'``.
        in_channels (int): Channels of the image. Defaults to 3.
        base_channels (int): Channels of the stem and the first stage.
            Defaults to 16.
        mid_channels (int | Sequence[int], optional): Channels between the two
            convolutions of a block: one number for all, one per stage or one
            per block. Defaults to None, the width of the block.
        out_indices (Sequence[int]): Stages whose feature maps are returned.
            Defaults to (2, ).
        init_cfg (dict | list[dict], optional): Initialization of the weights.
            Defaults to None: Kaiming for convolutions, one for the scale of
            norms.

    Raises:
        PruningError: If an argument is out of its domain.

    Examples:
        >>> import torch
        >>> from mmlapp.models import CIFARResNet
        >>> model = CIFARResNet(depth=20)
        >>> [tuple(x.shape) for x in model(torch.rand(1, 3, 32, 32))]
        [(1, 64, 8, 8)]
    """

    def __init__(
        self,
        depth: int = 20,
        shortcut: str = 'A',
        in_channels: int = 3,
        base_channels: int = 16,
        mid_channels: int | Sequence[int] | None = None,
        out_indices: Sequence[int] = (NUM_STAGES - 1,),
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg or kaiming_init_cfg())
        self.num_blocks = blocks_per_stage(depth)
        if shortcut not in SHORTCUTS:
            raise PruningError(
                f'shortcut={shortcut!r}: expected one of '
                f"{sorted(SHORTCUTS)}; 'A' pads with zeros, 'B' projects"
            )
        check_positive('base_channels', base_channels)
        check_out_indices(out_indices, NUM_STAGES)
        self.depth = depth
        self.shortcut = shortcut
        self.out_indices = tuple(out_indices)

        widths = [base_channels * 2**stage for stage in range(NUM_STAGES)]
        mids = spread_widths(
            'mid_channels',
            widths if mid_channels is None else mid_channels,
            [self.num_blocks] * NUM_STAGES,
        )
        self.conv1 = nn.Conv2d(
            in_channels, base_channels, 3, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(base_channels)
        self.relu = nn.ReLU(inplace=True)
        previous = base_channels
        for stage, width in enumerate(widths):
            layer = self._make_stage(previous, width, mids[stage], stage)
            self.add_module(f'layer{stage + 1}', layer)
            previous = width

    def _make_stage(
        self, in_channels: int, width: int, mids: Sequence[int], stage: int
    ) -> nn.Sequential:
        stride = 1 if stage == 0 else 2
        downsample = None
        if stride > 1:
            downsample = SHORTCUTS[self.shortcut](in_channels, width, stride)
        first = BasicBlock(in_channels, mids[0], width, stride, downsample)
        rest = [BasicBlock(width, mid, width) for mid in mids[1:]]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices``.

        Args:
            x (Tensor): Images. Shape is ``[N, C, H, W]``.

        Returns:
            tuple[Tensor, ...]: One map per stage. Shape of stage s, from 0,
            is ``[N, base_channels * 2**s, H / 2**s, W / 2**s]``.
        """
        x = self.relu(self.bn1(self.conv1(x)))
        outs = []
        for stage in range(NUM_STAGES):
            x = getattr(self, f'layer{stage + 1}')(x)
            if stage in self.out_indices:
                outs.append(x)
        return tuple(outs)


def blocks_per_stage(depth: int) -> int:
    """Blocks in each of the three stages of a network of this depth.

    Args:
        depth (int): Number of weighted layers.

    Returns:
        int: The n of depth = 6n + 2.

    Raises:
        PruningError: If no whole number of blocks gives this depth.
    """
    # Two layers lie outside of the stages: the stem and the classifier.
    blocks, rest = divmod(depth - 2, NUM_STAGES * CONVS_PER_BLOCK)
    if blocks < 1 or rest:
        raise PruningError(
            f'depth={depth}: expected 6n + 2 with n >= 1, such as 20, 32, '
            '44, 56 or 110'
        )
    return blocks
