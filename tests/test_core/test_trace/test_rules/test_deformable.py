# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution of torchvision, an operator."""

import pytest
import torchvision
from torch import nn

OFFSET = 'tells a deformable convolution where to read'


class Deformable(nn.Module):
    """Offsets, and perhaps weights of the pixels, computed from the input."""

    def __init__(self, fields=1, groups=1, modulated=False):
        super().__init__()
        self.offset = nn.Conv2d(8, fields * 2 * 9, 3, padding=1)
        self.mask = None
        if modulated:
            self.mask = nn.Conv2d(8, fields * 9, 3, padding=1)
        self.conv = torchvision.ops.DeformConv2d(
            8, 6, 3, padding=1, groups=groups
        )

    def forward(self, x):
        mask = None if self.mask is None else self.mask(x).sigmoid()
        return self.conv(x, self.offset(x), mask)


# Arguments, and how many choices the input's eight channels have.
KINDS = {
    'plain': (dict(), 8),
    'modulated': (dict(modulated=True), 8),
    'two fields of offsets': (dict(fields=2), 4),
    'two groups': (dict(groups=2), 4),
}


def closed_form(inputs, outputs, groups):
    """Multiply-adds of a 3x3 convolution at 2 x 8 x 8 positions."""
    return 2 * 8 * 8 * outputs * (inputs // groups) * 9


@pytest.mark.parametrize('name', KINDS)
def test_input_and_output_are_narrowed(net, conv, image, agree, name):
    arguments, size = KINDS[name]
    groups = arguments.get('groups', 1)
    made = 2 if groups == 2 else 3
    model = net(
        lambda m, x: m.c(m.b(m.a(x)).relu()),
        a=conv(3, 8),
        b=Deformable(**arguments),
        c=conv(6, 5),
    )
    for parameter in model.b.parameters():
        nn.init.normal_(parameter, std=0.2)
    uncounted = closed_form(8, 6, groups), closed_form(4, made, groups)
    result = agree(model, image, uncounted=uncounted)
    assert result.groups['a'] == size
    weight = result.slim.b.conv.weight
    assert weight.shape == (made, 4 // groups, 3, 3)


@pytest.mark.parametrize('name', ['offset', 'mask'])
def test_what_tells_where_to_read_is_frozen(net, conv, image, frozen, name):
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=Deformable(modulated=True),
        c=conv(6, 5),
    )
    assert frozen(model, image)[f'b.{name}'] == OFFSET
