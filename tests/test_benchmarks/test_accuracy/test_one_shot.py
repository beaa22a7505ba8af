# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The control that another tool prunes."""

import pytest
import torch
from accuracy.cost import flops
from accuracy.network import classifier
from accuracy.one_shot import prune_once


@pytest.mark.parametrize('alike', [False, True])
def test_the_largest_network_within_the_target(alike):
    pytest.importorskip('torch_pruning', reason='the peer is not installed')
    model = classifier(8, 0)
    before = flops(model)
    found = prune_once(model, 0.5, alike)
    assert 0.4 < flops(found) / before <= 0.5
    assert flops(model) == before
    assert found(torch.rand(2, 3, 32, 32)).shape == (2, 10)
