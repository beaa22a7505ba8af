# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes of blocks follow the channels that they count."""

import torch
from torch import nn

from mmlapp.core import attach, narrow


class Merging(nn.Module):
    """Adds a norm to a convolution, and merges both later (RepVGG)."""

    def __init__(self, channels, groups=1):
        super().__init__()
        self.in_channels = self.out_channels = channels
        self.groups = groups
        self.conv = nn.Conv2d(
            channels, channels, 3, padding=1, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.conv(x) + self.norm(x)

    def merged(self):
        """One convolution with the same outputs, in evaluation mode."""
        conv = nn.Conv2d(
            self.in_channels, self.out_channels, 3, padding=1,
            groups=self.groups,
        )  # fmt: skip
        norm = self.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        identity = torch.zeros_like(conv.weight)
        for i in range(self.in_channels):
            identity[i, i % (self.in_channels // self.groups), 1, 1] = scale[i]
        conv.weight.data = self.conv.weight + identity
        conv.bias.data = norm.bias - norm.running_mean * scale
        return conv


def narrowed(block):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), block, nn.Conv2d(8, 4, 1)).eval()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.running_mean)
    image = torch.rand(1, 3, 6, 6)
    pruner = attach(net, image)
    pruner.begin({'flops': 0.6}, 1)
    pruner.step()
    narrow(net, pruner.plan())
    return net, image


@torch.no_grad()
def check_merging(groups):
    net, image = narrowed(Merging(8, groups))
    assert net[1].in_channels < 8
    expected = net(image)
    net[1] = net[1].merged()
    torch.testing.assert_close(net(image), expected)


def test_a_block_merges_its_branches_after_narrowing():
    check_merging(1)


def test_so_does_a_depthwise_one():
    check_merging(8)


def test_so_does_one_of_two_groups():
    check_merging(2)


def test_a_block_that_runs_on_different_channels_keeps_its_number():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_channels = 4

        def forward(self, x):
            return x.relu()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.c, self.act = nn.Conv2d(4, 2, 1), Twice()

        def forward(self, x):
            return self.c(self.act(self.b(self.act(self.a(x)))))

    net = Net()
    pruner = attach(net, torch.rand(1, 3, 4, 4))
    mask = torch.tensor([1, 0, 1, 1, 1, 1, 1, 0]).bool()
    pruner.set_mask(mask, {'flops': 1.0})
    assert pruner.plan().attributes == {}


def test_a_plan_names_the_attribute():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Merging(8), nn.Conv2d(8, 4, 1))
    pruner = attach(net, torch.rand(1, 3, 6, 6))
    mask = torch.ones(8).bool()
    mask[2:5] = False
    pruner.set_mask(mask, {'flops': 1.0})
    found = pruner.plan().attributes
    assert set(found) == {'1.in_channels', '1.out_channels'}
    assert {kept.index for kept in found.values()} == {(0, 1, 5, 6, 7)}
