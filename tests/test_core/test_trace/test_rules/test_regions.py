# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pooled regions have the channels of the map that they lie in."""

import pytest
import torch

from mmlapp.core.gathering import Gathering
from mmlapp.core.trace import trace
from mmlapp.core.trace.rules.regions import WHERE

ops = pytest.importorskip('torchvision.ops')

BOXES = torch.tensor(
    [[0, 1, 1, 5, 6], [1, 0, 2, 7, 4], [0, 0, 0, 7, 7]], dtype=torch.float64
)


def by_levels(m, x):
    """As detectors do: regions of all levels are put into one tensor."""
    maps = m.a(x), m.c(x)
    out = maps[0].new_zeros(len(BOXES), maps[0].shape[1], 3, 3)
    for level, places in enumerate(([0, 2], [1])):
        boxes = BOXES[places]
        pooled = ops.roi_align(maps[level], boxes, 3)
        out[torch.tensor(places)] = pooled
    return m.b(out)


FORWARDS = {
    'align': lambda m, x: m.b(ops.roi_align(m.a(x), BOXES, 3)),
    'pool': lambda m, x: m.b(ops.roi_pool(m.a(x), BOXES, 3)),
    'levels': by_levels,
}


@pytest.mark.parametrize('name', FORWARDS)
def test_regions_keep_the_channels(net, conv, image, agree, name):
    parts = {'a': conv(3, 8), 'b': conv(8, 5)}
    if name == 'levels':
        parts['c'] = conv(3, 8)
    model = net(FORWARDS[name], **parts)
    assert agree(model, image).groups == {'a': 8}


def test_channels_that_tell_where_stay(net, conv, image):
    def forward(m, x):
        boxes = m.a(x).mean((2, 3)).relu() * 0
        return m.b(ops.roi_align(m.c(x), boxes, 3))

    parts = {'a': conv(3, 5), 'b': conv(8, 5), 'c': conv(3, 8)}
    model = net(forward, **parts)
    groups = Gathering(trace(model, lambda: model(image))).groups().items
    assert [g.frozen for g in groups if g.name == 'a'] == [WHERE]
