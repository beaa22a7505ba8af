# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core.snapshot import exact, restored


@pytest.fixture
def small():
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.BatchNorm1d(4), shared)


def test_whatever_happens_inside_is_undone(small):
    before = {k: v.clone() for k, v in small.state_dict().items()}

    def change():
        with restored(small):
            small[0].weight = nn.Parameter(torch.zeros(2, 4))
            small[0].out_features = 2
            small[1].__class__ = nn.Identity
            small.add_module('extra', nn.Identity())
            del small[1]._buffers['running_mean']
            raise RuntimeError('inside')

    with pytest.raises(RuntimeError, match='inside'):
        change()
    assert small[0].out_features == 4
    assert type(small[1]) is nn.BatchNorm1d
    assert not hasattr(small, 'extra')
    for key, value in small.state_dict().items():
        assert torch.equal(value, before[key])


def test_float64_inside_and_float32_outside(small):
    small.eval()
    x = torch.randn(3, 4)
    expected = small(x)
    with exact(small):
        inside = small(x)
        assert small[0].weight is small[2].weight
    assert inside.dtype == torch.float64
    assert small[0].weight.dtype == torch.float32
    torch.testing.assert_close(inside.float(), expected)
    assert not small._forward_pre_hooks


def test_what_a_module_holds_besides_is_replaced_and_put_back(small):
    mine = small.mine = {'w': small[0].weight}
    with exact(small):
        assert small.mine['w'] is small[0].weight
        assert small.mine['w'].dtype == torch.float64
    assert small.mine is mine
    assert mine['w'] is small[0].weight
