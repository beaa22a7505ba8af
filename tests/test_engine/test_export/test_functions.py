# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Custom autograd functions in files."""

import pytest
import torch
from mmcv.ops import (
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
)
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.export.base import Settings
from mmlapp.engine.export.files import export
from mmlapp.engine.export.functions import plain_functions


class Halved(torch.autograd.Function):
    """With a context, as most of them."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.learns = ctx.needs_input_grad[0]
        return x.sigmoid() / 2


class Doubled(torch.autograd.Function):
    """With a context of its own, and an argument by default."""

    @staticmethod
    def forward(x, factor=2):
        return x * factor

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]


doubled = Doubled.apply  # bound before anybody knows of exporters


class Net(nn.Module):
    def forward(self, x):
        return doubled(Halved.apply(x))


def test_functions_are_their_forward():
    x = torch.rand(2, 3, requires_grad=True)
    before = vars(torch.autograd.Function.__mro__[1]).get('apply')
    with plain_functions():
        found = Net()(x)
    torch.testing.assert_close(found, x.sigmoid())
    assert vars(torch.autograd.Function.__mro__[1]).get('apply') is before
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, x.sigmoid() * (1 - x.sigmoid()))


def test_they_are_as_ever_after_an_error():
    with pytest.raises(ZeroDivisionError), plain_functions():
        raise ZeroDivisionError
    x = torch.rand(2, requires_grad=True)
    assert 'HalvedBackward' in str(Halved.apply(x).grad_fn)


def test_files_hold_them(tmp_path):
    images = torch.rand(2, 3, 8, 8)
    made = export(Net().eval(), images, tmp_path / 'net.torchscript')
    assert made.error == 0


@pytest.mark.parametrize('suffix', ['.onnx', '.pt2', '.torchscript'])
def test_files_hold_deformable_convolutions(suffix, tmp_path):
    """Those of mmcv by the operator of torchvision, or of ONNX."""
    torch.manual_seed(0)
    window = dict(kernel_size=3, padding=1)
    net = nn.Sequential(
        DeformConv2dPack(4, 6, stride=2, deform_groups=2, **window),
        ModulatedDeformConv2dPack(6, 4, groups=2, bias=True, **window),
    )
    for layer in net:
        nn.init.normal_(layer.conv_offset.weight, std=0.3)
    path = tmp_path / f'net{suffix}'
    made = export(net.eval(), torch.rand(2, 4, 8, 8), path)
    assert made.error < 1e-5


class LargeOffsets(nn.Module):
    """As in DyHead: offsets of all pixels, of which every other one counts."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Conv2d(4, 27, 3, padding=1)
        self.conv = ModulatedDeformConv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, x):
        found = self.offset(x)
        return self.conv(x, found[:, :18], found[:, 18:].sigmoid())


@pytest.mark.parametrize('suffix', ['.pt2', '.torchscript'])
def test_offsets_of_another_size_are_read_as_by_mmcv(suffix, tmp_path):
    torch.manual_seed(0)
    net = LargeOffsets().eval()
    path = tmp_path / f'net{suffix}'
    made = export(net, torch.rand(2, 4, 7, 8), path)
    assert made.error < 1e-5


def test_an_opset_that_has_no_deformable_convolution(tmp_path):
    layer = DeformConv2dPack(4, 6, 3, padding=1).eval()
    path = tmp_path / 'net.onnx'
    text = 'opset=18: ONNX has torchvision.deform_conv2d.*from opset 19 on'
    with pytest.raises(PruningError, match=text):
        export(
            layer, torch.rand(2, 4, 8, 8), path, settings=Settings(opset=18)
        )
    assert not list(tmp_path.iterdir())
