# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The networks of the tables: those of CIFAR with a linear layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mmlapp.core import ChannelPlan, narrow
from mmlapp.core.files import replace_file
from mmlapp.models import CIFARVGG, CIFARResNet

from .data import prepare

# Of the network of most tables, and of all channels of the first stage.
DEPTH, WIDTH = 20, 16
# Stem of the residual stream: without it widths inside blocks alone shrink.
STREAM = 'backbone.conv1'


class Classifier(nn.Module):
    """A backbone with its linear layer.

    Args:
        backbone (nn.Module): Of feature maps, the last of which counts.
        channels (int): Of that one.
    """

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [N, 3, 32, 32]."""
        # As ResNet-20: [N, 64, 8, 8] -> [N, 64] -> [N, 10].
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def initialise(model: nn.Module) -> None:
    """Kaiming's initialisation, fan out, of every convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out')


def resnet(depth: int, width: int) -> Classifier:
    """A ResNet of 6 n + 2 layers; the first stage has a width."""
    # Of three stages, each twice as wide as the one before.
    return Classifier(CIFARResNet(depth, base_channels=width), 4 * width)


def vgg(depth: int, width: int) -> Classifier:
    """A VGG whose first stage has four times the width, 64 of 16."""
    widths = [width * times for times in (4, 8, 16, 32, 32)]
    return Classifier(CIFARVGG(depth, channels=widths), widths[-1])


def imagenet_resnet(depth: int, width: int) -> Classifier:
    """A ResNet as for ImageNet, with four stages and a stem of stride 4."""
    # No table needs it, and it takes seconds.
    from mmpretrain.models import ResNet

    backbone = ResNet(depth, stem_channels=width, base_channels=width)
    return Classifier(backbone, 8 * width)


KINDS: dict[str, Callable[[int, int], Classifier]] = {
    'resnet': resnet,
    'vgg': vgg,
    'imagenet_resnet': imagenet_resnet,
}


def classifier(
    depth: int, seed: int, width: int = WIDTH, kind: str = 'resnet'
) -> Classifier:
    """A network with the weights of a seed."""
    torch.manual_seed(seed)
    model = KINDS[kind](depth, width)
    initialise(model)
    return model


def save(model: nn.Module, plan: ChannelPlan | None, path: Path) -> None:
    """Writes weights, and how the network was narrowed beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, partial(torch.save, model.state_dict()))
    if plan is not None:
        plan.save(path.with_suffix('.json'))


def load(path: Path) -> nn.Module:
    """A ResNet-20 as :func:`save` wrote it."""
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
