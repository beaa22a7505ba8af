# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from mmlapp.core.trace.blocks.shapes import inputs_of, shape_of


def test_parameters_and_buffers():
    norm = nn.BatchNorm2d(5)
    assert shape_of(norm, 'weight') == shape_of(norm, 'running_mean') == (5,)


def test_inputs_of_a_grouped_convolution():
    assert inputs_of(nn.Conv2d(6, 4, 3, groups=2)) == 6


def test_parametrised_tensors_are_in_no_table():
    assert shape_of(weight_norm(nn.Conv2d(6, 4, 3)), 'weight') == (4, 6, 3, 3)


def test_asking_changes_nothing():
    """Each look at a spectral norm in training is a step of its own."""
    module = spectral_norm(nn.Conv2d(6, 4, 3))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    assert shape_of(module, 'weight') == (4, 6, 3, 3)
    for name, value in module.state_dict().items():
        assert torch.equal(before[name], value)
    assert all(m.training for m in module.modules())


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.parametrize(
    'compute', [utils.spectral_norm, utils.weight_norm, prune.identity]
)
def test_weights_that_hooks_compute(compute):
    layer = nn.Conv2d(6, 4, 3)
    compute(layer, 'weight')
    assert shape_of(layer, 'weight') == (4, 6, 3, 3)
