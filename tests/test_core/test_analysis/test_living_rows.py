# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from mmlapp.core.analysis.living_rows import (
    ConvolutionOfRows,
    LinearOfRows,
    skip_zero_rows,
)
from mmlapp.core.analysis.runs import FixedGate
from mmlapp.core.mask.gate import ParameterMask
from mmlapp.core.mask.masked import add_mask

OF_ROWS = LinearOfRows, ConvolutionOfRows
LINEAR = nn.Linear(128, 160)
# Layers, and shapes of what they read.
LAYERS = [
    (LINEAR, (2, 5, 128)),
    (nn.Conv1d(80, 40, 7, padding=3, stride=2), (2, 80, 11)),
    (
        nn.Conv2d(48, 40, 3, padding=1, padding_mode='circular'),
        (2, 48, 7, 6),
    ),
    (
        nn.Conv2d(48, 40, 3, padding='same', dilation=2, bias=False),
        (48, 7, 6),
    ),
    (nn.Conv3d(24, 40, 3), (1, 24, 5, 4, 4)),
]


def masked(layer, gate, *masks):
    """A layer with masks of a gate at names and dimensions, in float64."""
    layer = layer.double()
    source = FixedGate(gate)
    for name, dim in masks:
        count = layer._parameters[name].shape[dim]
        # Channels 0 1 2 .., the last ones of which are none.
        channels = torch.arange(count)
        channels[len(gate) :] = -1
        add_mask(layer, name, ParameterMask(source, channels, dim))
    return layer


@pytest.fixture
def gate():
    """Of forty channels: most are gone, one by a part."""
    gate = torch.zeros(40, dtype=torch.float64)
    gate[[3, 8, 30]] = torch.tensor([1.0, 1 + 1e-15, 1.0]).double()
    return gate


@pytest.mark.parametrize(
    'masks',
    [
        [('weight', 0), ('bias', 0)],
        [('weight', 0)],
        [('weight', 0), ('weight', 1), ('bias', 0)],
        [('weight', 0), ('weight', 0)],
    ],
)
@pytest.mark.parametrize(('layer', 'shape'), LAYERS)
def test_layers_compute_what_masks_leave_of_them(layer, shape, masks, gate):
    layer = deepcopy(layer)
    if layer.bias is None:
        masks = [mask for mask in masks if mask[0] != 'bias']
    layer = masked(layer, gate, *masks)
    x = torch.rand(shape, dtype=torch.float64)
    expected = layer(x)
    skip_zero_rows(layer)
    assert isinstance(layer, OF_ROWS)
    found = layer(x)
    assert torch.allclose(found, expected, 1e-13, 1e-13)


def test_few_rows_are_multiplied(gate):
    """The product of all would be as if nothing was skipped."""
    layer = masked(deepcopy(LINEAR), gate, ('weight', 0), ('bias', 0))
    skip_zero_rows(layer)
    kept = layer.__dict__['_rows'].kept
    # Rows behind the fortieth have no channel, and stay.
    assert kept.tolist() == [3, 8, 30, *range(40, 160)]
    assert layer.__dict__['_rows'].weight(layer).shape == (123, 128)


def test_what_else_computes_is_left_to_its_masks(gate):
    """Layers of other code, of other masks, small ones, whole ones."""

    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    class Twice(ParameterMask):
        def __call__(self, parameter):
            return super().__call__(parameter) * 2

    names = ('weight', 0), ('bias', 0)
    layers = [
        masked(Own(128, 160), gate, *names),
        masked(nn.Linear(8, 40), gate, *names),
        masked(deepcopy(LINEAR), torch.ones(40), *names),
        masked(deepcopy(LINEAR), gate, ('weight', 1)),
        masked(deepcopy(LINEAR), gate, ('bias', 0)),
        masked(nn.Conv2d(80, 160, 3, groups=2), gate, *names),
        masked(nn.ConvTranspose2d(160, 80, 3), gate, ('weight', 0)),
        parametrizations.weight_norm(nn.Linear(128, 160)),
        deepcopy(LINEAR),
    ]
    other = deepcopy(LINEAR).double()
    add_mask(
        other, 'weight', Twice(FixedGate(gate), torch.arange(160) % 40, 0)
    )
    layers.append(other)
    for layer in layers:
        skip_zero_rows(layer)
        assert not isinstance(layer, OF_ROWS), layer


def test_half_precision_and_vmap_compute_it_as_well(gate):
    layer = masked(deepcopy(LINEAR), gate, ('weight', 0), ('bias', 0))
    x = torch.rand(3, 4, 128, dtype=torch.float64)
    expected = layer(x)
    skip_zero_rows(layer)
    assert torch.allclose(torch.vmap(layer)(x), expected)
    layer.float()
    with torch.autocast('cpu', torch.bfloat16):
        half = layer(x.float())
    assert half.dtype is torch.bfloat16
    assert torch.allclose(half.double(), expected, 0.05, 0.05)
