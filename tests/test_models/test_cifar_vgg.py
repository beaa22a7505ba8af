# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The CIFAR VGGs against closed forms."""

from collections.abc import Callable

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmlapp.models import CIFARVGG

VGG16 = [64, 64, 128, 128, 256, 256, 256] + [512] * 6


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def conv_widths(model: nn.Module) -> list[int]:
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return [conv.out_channels for conv in convs]


def test_parameters_in_closed_form() -> None:
    """14.7 M, the figure that the pruning literature gives."""
    inputs = [3, *VGG16[:-1]]
    conv = sum(9 * i * o for i, o in zip(inputs, VGG16, strict=True))
    expected = conv + 2 * sum(VGG16)
    assert round(expected / 1e6, 1) == 14.7
    assert count_parameters(CIFARVGG(16)) == expected


def test_multiply_adds_in_closed_form(count_macs: Callable) -> None:
    """313 M without the classifier."""
    sides = [32] * 2 + [16] * 2 + [8] * 3 + [4] * 3 + [2] * 3
    inputs = [3, *VGG16[:-1]]
    expected = sum(
        9 * i * o * side * side
        for i, o, side in zip(inputs, VGG16, sides, strict=True)
    )
    assert round(expected / 1e6) == 313
    assert count_macs(CIFARVGG(16), (3, 32, 32)) == expected


@pytest.mark.parametrize('depth', [11, 13, 16, 19])
def test_depth_counts_convolutions_and_three_linear_layers(depth: int) -> None:
    model = CIFARVGG(depth, channels=4)
    assert len(conv_widths(model)) == depth - 3
    assert (
        len([m for m in model.modules() if isinstance(m, nn.MaxPool2d)]) == 5
    )


def test_output_shapes() -> None:
    model = CIFARVGG(16, channels=[2, 3, 4, 5, 6], out_indices=(1, 4))
    shapes = [tuple(x.shape) for x in model(torch.rand(2, 3, 32, 32))]
    assert shapes == [(2, 3, 8, 8), (2, 6, 1, 1)]


@pytest.mark.parametrize(
    ('channels', 'expected'),
    [
        (5, [5] * 13),
        ([2, 3, 4, 5, 6], [2] * 2 + [3] * 2 + [4] * 3 + [5] * 3 + [6] * 3),
        (list(range(1, 14)), list(range(1, 14))),
    ],
)
def test_widths(channels: object, expected: list[int]) -> None:
    assert conv_widths(CIFARVGG(16, channels=channels)) == expected
    assert conv_widths(CIFARVGG(16)) == VGG16


def test_train_and_eval_return_the_model() -> None:
    model = CIFARVGG(11, channels=4)
    assert model.eval() is model
    assert model.train() is model


def test_classifier_of_mmpretrain_builds_and_learns() -> None:
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='mmlapp.CIFARVGG', depth=11, channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    logits = model(torch.rand(4, 3, 32, 32))
    logits.sum().backward()
    assert logits.shape == (4, 10)
    assert model.backbone.layer1[0].weight.grad is not None


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=12), r'depth=12: expected one of \[11, 13, 16, 19\]'),
        (dict(channels=[1, 2]), 'one number, 5 .* or 13 .*, got 2'),
        (dict(channels=[64, 0, 1, 1, 1]), 'channels=0: expected a positive'),
        (dict(out_indices=(5,)), r'out_indices=\(5,\): .* from 0 to 4'),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CIFARVGG(**kwargs)
