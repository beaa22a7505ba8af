# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn
from torch.autograd import Function

from mmlapp.engine.models.complexity import counted_flops, operator_flops


class Foreign(Function):
    """Stands for an operator that is written outside of PyTorch."""

    @staticmethod
    def forward(ctx, x):
        return x * 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, image, samples, mode):
        assert mode == 'tensor'
        x = Foreign.apply(Foreign.apply(self.conv(image)))
        x = self.norm(self.deep(x)).mean((2, 3))
        x = self.fc(x)
        return {'product': x.T @ x, 'x': x}


def test_closed_form():
    net = Net().eval()
    counts, foreign = operator_flops(net, (3, 6, 4))
    conv = 6 * 4 * 3 * 8 * 9 + 4 * 2 * 8 * 9
    assert counts['conv'] == conv
    # norms appear, but not in the budget
    assert counts['batch_norm'] > 0
    assert counted_flops(counts) == conv + 8 * 5 + 5 * 1 * 5
    assert foreign == {'Foreign': 2}


class Attending(nn.Module):
    """Adds products of queries and keys to a bias."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.rand(1))

    def forward(self, image, samples, mode):
        tokens = image.flatten(2)
        return torch.baddbmm(self.bias, tokens.mT, tokens)


def test_products_that_something_is_added_to():
    """24 queries by 24 keys of 3 numbers."""
    counts, _ = operator_flops(Attending().eval(), (3, 6, 4))
    assert counted_flops(counts) == 24 * 24 * 3


def test_the_model_stays_as_it_is():
    net = Net()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    operator_flops(net.eval(), (3, 6, 4))
    assert not any(m._forward_hooks for m in net.modules())
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key])
