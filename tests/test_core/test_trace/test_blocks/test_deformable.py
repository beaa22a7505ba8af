# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Deformable convolutions of MMCV; the attributes of torchvision's."""

import pytest
import torch
import torchvision
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

from mmlapp.core.trace.blocks.registry import adjust_attributes

OFFSET = 'tells a deformable convolution where to read'


KINDS = {
    'version 1': (lambda: DeformConv2dPack(8, 6, 3, padding=1), 8),
    'version 2': (lambda: ModulatedDeformConv2dPack(8, 6, 3, padding=1), 8),
    'grouped': (
        lambda: ModulatedDeformConv2dPack(8, 6, 3, padding=1, groups=2),
        4,
    ),
    'two fields of offsets': (
        lambda: DeformConv2dPack(8, 6, 3, padding=1, deform_groups=2),
        4,
    ),
}


def closed_form(inputs, outputs, groups=1):
    """Multiply-adds of a 3x3 convolution at 2 x 8 x 8 positions."""
    return 2 * 8 * 8 * outputs * (inputs // groups) * 9


@pytest.mark.parametrize('name', KINDS)
def test_deformable_convolution(net, conv, image, agree, name):
    make, size = KINDS[name]
    model = net(
        lambda m, x: m.c(m.b(m.a(x)).relu()),
        a=conv(3, 8),
        b=make(),
        c=conv(6, 5),
    )
    # Half of six channels; of three positions in each of two groups, one.
    groups, made = (2, 2) if name == 'grouped' else (1, 3)
    for parameter in model.b.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    result = agree(
        model,
        image,
        uncounted=(
            closed_form(8, 6, groups),
            closed_form(4, made, groups),
        ),
    )
    assert result.groups['a'] == size
    layer = result.slim.b
    assert (layer.in_channels, layer.out_channels) == (4, made)


def test_offsets_are_frozen(net, conv, image, frozen):
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=DeformConv2dPack(8, 6, 3, padding=1),
        c=conv(6, 5),
    )
    assert frozen(model, image)['b.conv_offset'] == OFFSET


def test_attributes_of_torchvisions_layer_follow_too():
    layer = torchvision.ops.DeformConv2d(8, 6, 3, groups=2)
    layer.weight = torch.nn.Parameter(layer.weight[:4, :2])
    adjust_attributes(layer)
    assert (layer.in_channels, layer.out_channels) == (4, 4)
