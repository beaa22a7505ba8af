# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from narrow_layers import LAYERS, call_of, sizes_behind
from torch import nn

from mmlapp.engine.latency.shapes import shape_at


@pytest.mark.parametrize('name', LAYERS)
def test_shapes_are_those_of_a_layer_built_narrow(name):
    build, (wide_in, wide_out) = LAYERS[name]
    wide, narrow = build(wide_in, wide_out), build(5, 7)
    rest = sizes_behind(wide)
    call = call_of(wide, (2, wide_in, *rest))
    expected = call_of(narrow, (2, 5, *rest))
    found = shape_at(call, {'in': 5, 'out': 7})
    assert found.inputs == expected.inputs
    assert found.weight == expected.weight


@pytest.mark.parametrize(
    ('groups', 'widths', 'narrow'),
    [
        # depthwise: all three go together
        (8, {'out': 3}, nn.Conv2d(3, 3, 3, groups=3)),
        # whole groups of two
        (4, {'out': 6}, nn.Conv2d(6, 6, 3, groups=3)),
        # the same columns of both groups
        (2, {'in': 3, 'out': 4}, nn.Conv2d(6, 4, 3, groups=2)),
    ],
)
def test_shapes_of_grouped_layers(groups, widths, narrow):
    """As the trace says which dimensions may shrink."""
    call = call_of(nn.Conv2d(8, 8, 3, groups=groups), (1, 8, 6, 6))
    assert set(widths) <= set(call.dims)
    expected = call_of(narrow, (1, narrow.in_channels, 6, 6))
    found = shape_at(call, widths)
    assert found.inputs == expected.inputs
    assert found.weight == expected.weight
    assert found.groups == narrow.groups
