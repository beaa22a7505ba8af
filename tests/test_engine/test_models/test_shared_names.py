# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn

from mmlapp.engine.models.shared_names import FirstNames


def test_layers_and_tensors_have_a_first_name():
    model = nn.ModuleDict()
    model['a'], model['b'] = nn.Linear(2, 2), nn.Linear(2, 2)
    model['b'].weight = model['a'].weight
    model['c'] = nn.ModuleDict({'d': model['b'], 'e': nn.BatchNorm1d(2)})
    model['f'] = model['c']
    names = model.state_dict(keep_vars=True)
    first = FirstNames(model)
    for name, tensor in names.items():
        assert names[first(name)] is tensor
        # Of one tensor the first, whatever it is called.
        assert first(name) == next(n for n in names if names[n] is tensor)
    assert first('f.d.weight') == 'a.weight'
    assert first('f.d.bias') == 'b.bias'
    assert first('f.e.running_mean') == 'c.e.running_mean'


def test_names_of_other_models_follow_their_layers():
    layer = nn.Conv2d(2, 2, 1)
    model = nn.Sequential(layer, nn.Sequential(layer), nn.Conv2d(2, 2, 1))
    first = FirstNames(model)
    assert first('1.0.bypass.parts.0.conv.weight') == (
        '0.bypass.parts.0.conv.weight'
    )
    assert first('2.kept') == '2.kept'
    assert first('unknown') == 'unknown'
    assert torch.equal(model.state_dict()[first('1.0.bias')], layer.bias)
