# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmlapp.core.writes import CopyOnWrite


def zero(layer):
    layer.weight.zero_()


def zero_data(layer):
    layer.weight.data.zero_()


def zero_a_view(layer):
    layer.weight[0].view(-1)[:2].fill_(0)


def zero_by_out(layer):
    torch.mul(layer.bias, 0, out=layer.bias)


def zero_a_list(layer):
    torch._foreach_mul_([layer.weight, layer.bias], 0)


def other_data(layer):
    layer.weight.data = torch.zeros(2, 3)
    layer.weight.add_(1)


def other_data_afterwards(layer):
    layer.weight.add_(1)
    layer.weight.data = torch.zeros(2, 3)


def other_storage(layer):
    layer.weight.set_(torch.zeros(2, 3))


def zero_by_numpy(layer):
    layer.weight.detach().numpy()[...] = 0


def zero_an_array(layer):
    np.asarray(layer.bias.data)[1:] = 0


def zero_the_storage(layer):
    layer.weight.untyped_storage().fill_(0)


def twice(layer):
    layer.weight.zero_()
    layer.weight.fill_(7)


@pytest.mark.parametrize(
    'write',
    [
        zero,
        zero_data,
        zero_a_view,
        zero_by_out,
        zero_a_list,
        other_data,
        other_data_afterwards,
        other_storage,
        zero_by_numpy,
        zero_an_array,
        zero_the_storage,
        twice,
    ],
)
def test_what_is_written_is_undone(write):
    layer = nn.Linear(3, 2)
    weight = layer.weight
    before = {name: p.clone() for name, p in layer.named_parameters()}
    mode = CopyOnWrite(layer.parameters())
    with torch.no_grad(), mode:
        write(layer)
    after = dict(layer.named_parameters())
    assert any(not torch.equal(after[n], before[n]) for n in before)
    mode.restore()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert layer.weight is weight


def test_what_is_only_read_is_not_copied(monkeypatch):
    copied = []
    clone = Tensor.clone
    monkeypatch.setattr(
        Tensor, 'clone', lambda t: copied.append(tuple(t.shape)) or clone(t)
    )
    layer = nn.Linear(3, 2)
    mode = CopyOnWrite(layer.parameters())
    with torch.no_grad(), mode:
        layer(torch.rand(4, 3)).relu_()
        assert not copied
        layer.bias.zero_()
    assert copied == [(2,)]
