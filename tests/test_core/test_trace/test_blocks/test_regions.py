# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Regions that kernels of MMCV pool have the channels of their map."""

import pytest
import torch

ops = pytest.importorskip('mmcv.ops')


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_regions_keep_the_channels(net, conv, image, agree, mode):
    boxes = torch.tensor([[0, 1, 1, 5, 6], [1, 0, 2, 7, 4]]).double()

    def forward(m, x):
        return m.b(ops.roi_align(m.a(x), boxes, 3, 1.0, 0, mode, True))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}
