# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.core.cost.flops import multiply_adds
from mmlapp.core.trace import LayerCall, trace

LAYERS = {
    'convolution': (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9)),
    'grouped': (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 9, 9)),
    'dilated': (nn.Conv2d(4, 6, (1, 3), dilation=2), (2, 4, 9, 9)),
    'transposed': (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
    'one dimension': (nn.Conv1d(4, 6, 5), (2, 4, 9)),
    'three dimensions': (nn.Conv3d(4, 6, 3), (2, 4, 5, 5, 5)),
    'linear': (nn.Linear(4, 6), (3, 4)),
    'linear over tokens': (nn.Linear(4, 6), (2, 5, 4)),
}


@pytest.mark.parametrize('name', LAYERS)
def test_calls_as_torch_counts_them(name):
    layer, shape = LAYERS[name]
    x = torch.rand(shape)
    (call,) = trace(layer, lambda: layer(x)).calls
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    assert multiply_adds(call) == counter.get_total_flops() / 2


def test_geometry_is_recorded():
    """What a table of latencies tells layers apart by."""
    layer, shape = LAYERS['convolution']
    (call,) = trace(layer, lambda: layer(torch.rand(shape))).calls
    assert (call.inputs, call.outputs) == ((2, 4, 9, 9), (2, 6, 5, 5))
    assert call.weight == (6, 4, 3, 3)
    assert call.geometry == {
        'groups': 1,
        'transposed': False,
        'stride': (2, 2),
        'padding': (1, 1),
        'dilation': (1, 1),
    }


def test_other_operators_cost_nothing():
    call = LayerCall('norm', 'norm', {}, (1, 4), (4,), (1, 4))
    assert multiply_adds(call) == 0
