# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from torch import nn
from zoo.randomise import randomise, shake


def test_nothing_keeps_its_initial_value():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Linear(8, 8)
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for name, value in randomise(model).state_dict().items():
        if not name.endswith('num_batches_tracked'):
            assert (value != before[name]).all(), name


def test_rounding_changes_the_last_digits_alone():
    layer = nn.Linear(8, 8).double()
    before = layer.weight.detach().clone()
    change = (shake(layer).weight / before - 1).abs()
    assert 0 < change.max() < 5e-16
    assert (change == 0).any()
