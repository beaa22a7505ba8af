# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The CIFAR ResNets against the paper and against closed forms."""

from collections.abc import Callable

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmlapp.models import CIFARResNet, PadShortcut


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def closed_form_parameters(n: int, shortcut: str) -> int:
    """Parameters of the backbone with n blocks in each stage."""
    conv = 9 * (3 * 16 + 2 * n * 16 * 16)
    norm = 2 * (16 + 2 * n * (16 + 32 + 64))
    for width in (32, 64):
        conv += 9 * (width // 2 * width + (2 * n - 1) * width * width)
        if shortcut == 'B':
            conv += width // 2 * width
            norm += 2 * width
    return conv + norm


@pytest.mark.parametrize('shortcut', ['A', 'B'])
@pytest.mark.parametrize('depth', [8, 20, 56])
def test_parameters_in_closed_form(depth: int, shortcut: str) -> None:
    model = CIFARResNet(depth, shortcut)
    expected = closed_form_parameters((depth - 2) // 6, shortcut)
    assert count_parameters(model) == expected


@pytest.mark.parametrize(
    ('depth', 'millions'), [(20, 0.27), (32, 0.46), (56, 0.85), (110, 1.7)]
)
def test_parameters_of_the_paper(depth: int, millions: float) -> None:
    """He et al. 2015, table 6; the classifier has 64 x 10 + 10."""
    total = count_parameters(CIFARResNet(depth)) + 650
    digits = len(str(millions).split('.')[1])
    assert round(total / 1e6, digits) == millions


def test_multiply_adds_of_resnet20(count_macs: Callable) -> None:
    """40.55 M with the classifier, as the pruning literature counts."""
    model = nn.Sequential(CIFARResNet(20), Pool(), nn.Linear(64, 10))
    conv = 9 * 32 * 32 * (3 * 16 + 6 * 16 * 16)
    conv += 9 * 16 * 16 * (16 * 32 + 5 * 32 * 32)
    conv += 9 * 8 * 8 * (32 * 64 + 5 * 64 * 64)
    assert conv + 640 == 40_551_040
    assert count_macs(model, (3, 32, 32)) == 40_551_040


def test_projection_costs_its_two_convolutions(
    count_macs: Callable,
) -> None:
    padded = count_macs(CIFARResNet(20, 'A'), (3, 32, 32))
    projected = count_macs(CIFARResNet(20, 'B'), (3, 32, 32))
    assert projected - padded == 16 * 16 * (16 * 32) + 8 * 8 * (32 * 64)


class Pool(nn.Module):
    """Global average of the last map."""

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        return maps[-1].mean((2, 3))


def test_output_shapes() -> None:
    model = CIFARResNet(8, base_channels=4, out_indices=(0, 1, 2))
    maps = model(torch.rand(2, 3, 32, 48))
    shapes = [tuple(x.shape) for x in maps]
    assert shapes == [(2, 4, 32, 48), (2, 8, 16, 24), (2, 16, 8, 12)]


def test_attributes_are_those_of_mmpretrain() -> None:
    keys = CIFARResNet(8, 'B').state_dict()
    assert {'conv1.weight', 'bn1.weight', 'layer3.0.conv2.weight'} <= set(keys)
    assert 'layer2.0.downsample.0.weight' in keys
    assert not [k for k in keys if 'layer1.0.downsample' in k]


def reference_shortcut(x: Tensor, out_channels: int) -> Tensor:
    """Option A by loops over positions: copy every second pixel."""
    batch, channels, height, width = x.shape
    out = torch.zeros(batch, out_channels, (height + 1) // 2, (width + 1) // 2)
    for row in range(0, height, 2):
        for col in range(0, width, 2):
            out[:, :channels, row // 2, col // 2] = x[:, :, row, col]
    return out


@pytest.mark.parametrize('size', [(8, 8), (7, 10)])
def test_pad_shortcut_equals_reference(size: tuple[int, int]) -> None:
    x = torch.randn(2, 5, *size)
    out = PadShortcut(5, 12, stride=2)(x)
    assert torch.equal(out, reference_shortcut(x, 12))
    assert not list(PadShortcut(5, 12).parameters())


def test_whole_network_equals_hand_written_forward() -> None:
    torch.manual_seed(0)
    model = CIFARResNet(8, base_channels=4).eval()
    x = torch.randn(2, 3, 16, 16)
    out = torch.relu(model.bn1(model.conv1(x)))
    for layer in (model.layer1, model.layer2, model.layer3):
        block = layer[0]
        inner = torch.relu(block.bn1(block.conv1(out)))
        inner = block.bn2(block.conv2(inner))
        if layer is not model.layer1:
            out = reference_shortcut(out, inner.shape[1])
        out = torch.relu(inner + out)
    torch.testing.assert_close(model(x)[0], out)


@pytest.mark.parametrize(
    ('mid_channels', 'expected'),
    [
        (None, [16] * 3 + [32] * 3 + [64] * 3),
        (7, [7] * 9),
        ([6, 12, 24], [6] * 3 + [12] * 3 + [24] * 3),
        (list(range(1, 10)), list(range(1, 10))),
    ],
)
def test_inner_widths(mid_channels: object, expected: list[int]) -> None:
    model = CIFARResNet(20, mid_channels=mid_channels)
    blocks = [*model.layer1, *model.layer2, *model.layer3]
    assert [b.conv1.out_channels for b in blocks] == expected
    assert [b.conv2.out_channels for b in blocks] == [16] * 3 + [32] * 3 + [
        64
    ] * 3
    assert model(torch.rand(1, 3, 8, 8))[0].shape == (1, 64, 2, 2)


def test_train_and_eval_return_the_model() -> None:
    model = CIFARResNet(8)
    assert model.eval() is model
    assert not model.bn1.training
    assert model.train() is model


def test_classifier_of_mmpretrain_builds_and_learns() -> None:
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='mmlapp.CIFARResNet', depth=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    model.init_weights()
    logits = model(torch.rand(2, 3, 32, 32))
    logits.sum().backward()
    assert logits.shape == (2, 10)
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_initialization_is_that_of_he_et_al() -> None:
    torch.manual_seed(0)
    model = CIFARResNet(20)
    model.init_weights()
    weight = model.layer3[1].conv1.weight
    expected = (2 / (64 * 9)) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=21), r'depth=21: expected 6n \+ 2'),
        (dict(depth=2), r'depth=2: expected 6n \+ 2'),
        (dict(shortcut='C'), r"shortcut='C': expected one of \['A', 'B'\]"),
        (dict(base_channels=0), 'base_channels=0: expected a positive'),
        (dict(mid_channels=[1, 2]), r'one number, 3 .* or 9 .*, got 2'),
        (dict(mid_channels=-4), 'mid_channels=-4: expected a positive'),
        (dict(out_indices=(3,)), r'out_indices=\(3,\): .* from 0 to 2'),
        (dict(out_indices=()), r'out_indices=\(\): .* at least one'),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CIFARResNet(**kwargs)


def test_padding_cannot_remove_channels() -> None:
    with pytest.raises(ValueError, match=r'out_channels=4: .* in_channels=8'):
        PadShortcut(8, 4)
