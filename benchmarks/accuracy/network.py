# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The network of the tables: a CIFAR ResNet with its linear layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlapp.core import ChannelPlan, narrow
from mmlapp.core.files import replace_file
from mmlapp.models import CIFARResNet

from .data import prepare

# Of the network of the tables.
DEPTH, WIDTH = 20, 16
# Stem of the residual stream: without it widths inside blocks alone shrink.
STREAM = 'backbone.conv1'


class Classifier(nn.Module):
    """A CIFAR ResNet with its linear layer.

    Args:
        depth (int): Of the network, 6 n + 2.
        width (int): Channels of its first stage.
    """

    def __init__(self, depth: int, width: int = WIDTH) -> None:
        super().__init__()
        self.backbone = CIFARResNet(depth, base_channels=width)
        # Of three stages, each twice as wide as the one before.
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [N, 3, 32, 32]."""
        # [N, 4 width, 8, 8] -> [N, 4 width] -> [N, 10].
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def initialise(model: nn.Module) -> None:
    """Kaiming's initialisation, fan out, of every convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out')


def classifier(depth: int, seed: int, width: int = WIDTH) -> Classifier:
    """A network with the weights of a seed."""
    torch.manual_seed(seed)
    model = Classifier(depth, width)
    initialise(model)
    return model


def save(model: nn.Module, plan: ChannelPlan | None, path: Path) -> None:
    """Writes weights, and how the network was narrowed beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, partial(torch.save, model.state_dict()))
    if plan is not None:
        plan.save(path.with_suffix('.json'))


def load(path: Path) -> nn.Module:
    """A network of the tables' depth as :func:`save` wrote it."""
    model, plan = classifier(DEPTH, 0), path.with_suffix('.json')
    if plan.exists():
        narrow(model, ChannelPlan.load(plan))
    model.load_state_dict(torch.load(path, 'cpu', weights_only=True))
    return model


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent, in float32."""
    model.eval()
    right = 0
    for pixels, truth in zip(
        images.split(1000), labels.split(1000), strict=True
    ):
        logits = model(prepare(pixels))
        right += int((logits.argmax(1) == truth).sum())
    model.train()
    return 100.0 * right / len(images)
