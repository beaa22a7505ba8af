# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmcv.ops import DeformConv2dPack
from narrow_layers import call_of
from torch import nn

from mmlapp.core import analyse
from mmlapp.core.attach import cost_context
from mmlapp.core.trace import LayerCall, trace
from mmlapp.engine.latency.kinds import Kind, grid, kinds


def context_of(model, images):
    return cost_context(model, analyse(model, images))


@pytest.mark.parametrize('example', [1, 2])
def test_equal_layers_are_one_kind(images, example):
    """Two of the same shape, one of another size of the image."""
    images = images.repeat(example, 1, 1, 1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 4, 1),
    )
    found = kinds(context_of(model, images), batch=5, points=4, divisor=2)
    assert [kind.names for kind in found] == [
        ('0',),
        ('1', '2'),
        ('4',),
        ('5',),
    ]
    assert [list(kind.axes) for kind in found] == [
        ['out'],
        ['in', 'out'],
        ['in', 'out'],
        ['in'],
    ]
    assert [kind.call.inputs[0] for kind in found] == [5] * 4
    assert found[1].axes['in'] == (2, 4, 6, 8)


def test_images_are_counted_behind_a_table_of_positions():
    """Positions are looked up without a batch."""

    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.a = nn.Embedding(7, 8), nn.Linear(3, 8)
            self.b = nn.Linear(8, 4)

        def forward(self, x):
            places = self.places(torch.arange(7))
            return self.b(self.a(x) + places)

    found = kinds(context_of(Placed(), torch.rand(2, 7, 3)), 5, 4, 2)
    assert [kind.names for kind in found] == [('a',), ('b',)]
    assert [kind.call.inputs[0] for kind in found] == [5, 5]


def test_all_points_in_the_order_of_a_table():
    call = LayerCall('a', 'convolution', {}, (1, 4, 8, 8), (2, 4, 1, 1), ())
    kind = Kind(('a',), call, {'in': (2, 4), 'out': (1, 2)})
    assert [tuple(w.values()) for w in kind.widths()] == [
        (2, 1),
        (2, 2),
        (4, 1),
        (4, 2),
    ]


@pytest.mark.parametrize(
    ('full', 'points', 'divisor', 'widths'),
    [
        (64, 4, 8, (8, 16, 32, 48, 64)),
        (64, 8, 1, (4, 8, 16, 24, 32, 40, 48, 56, 64)),
        (10, 2, 8, (8, 10)),
        (3, 8, 8, (3,)),
    ],
)
def test_a_grid_of_widths(full, points, divisor, widths):
    call = call_of(nn.Conv2d(4, full, 1), (1, 4, 2, 2))
    assert grid(call, 'out', points, divisor) == widths


def test_a_grid_of_whole_groups():
    call = call_of(nn.Conv2d(12, 24, 3, groups=12), (1, 12, 6, 6))
    assert grid(call, 'out', 4, 1) == (4, 6, 12, 18, 24)


def test_inputs_of_a_deformable_convolution_fill_its_fields():
    layer = DeformConv2dPack(12, 6, 3, padding=1, deform_groups=3)
    x = torch.rand(1, 12, 6, 6)
    call = trace(layer, lambda: layer(x)).calls[-1]
    assert grid(call, 'in', 4, 1) == (3, 6, 9, 12)
    assert grid(call, 'in', 4, 2) == (6, 12)
