# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A module that runs on living channels alone."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmlapp.core.mask import gate as gate_module
from mmlapp.core.mask.living import Living, release, run_on_living


@pytest.fixture
def source():
    gate = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    return SimpleNamespace(active=True, factor=gate)


def norm_on(source, channels):
    norm = nn.GroupNorm(1, len(channels))
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    tensors = [(name, 0, channels) for name in ('weight', 'bias')]
    run_on_living(norm, Living(source, channels, channels, 1, tensors, []))
    return norm


def test_the_rest_is_zero_and_does_not_count(source):
    channels = torch.arange(6)
    norm = norm_on(source, channels)
    x = torch.randn(2, 6, 3, 3)
    alive = [0, 2, 4, 5]
    y = norm(x)
    expected = nn.functional.group_norm(
        x[:, alive], 1, norm.weight[alive], norm.bias[alive]
    )
    torch.testing.assert_close(y[:, alive], expected)
    assert (y[:, [1, 3]] == 0).all()
    changed = x.clone()
    changed[:, [1, 3]] += 100
    assert torch.equal(norm(changed), y)


@pytest.mark.parametrize(('other', 'count'), [(range(6), 1), (range(1, 7), 2)])
def test_what_is_equal_is_looked_up_once(source, monkeypatch, other, count):
    """At a GPU each time waits for it: input, output, weight and bias."""
    looked_up = []

    def at_channels(gate, channels):
        looked_up.append(channels)
        return gate_module.at_channels(gate, channels)

    monkeypatch.setattr('mmlapp.core.mask.living.at_channels', at_channels)
    tensors = [('weight', 0, torch.arange(6)), ('bias', 0, torch.arange(6))]
    norm = nn.GroupNorm(1, 6)
    outputs = torch.tensor(list(other)) % 6
    living = Living(source, torch.arange(6), outputs, 1, tensors, [])
    run_on_living(norm, living)
    norm(torch.randn(2, 6, 3, 3))
    assert len(looked_up) == count
    # The gate of another step is looked at anew.
    source.factor = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    y = norm(torch.randn(2, 6, 3, 3))
    assert len(looked_up) == 2 * count
    assert y.abs().sum((0, 2, 3)).nonzero()[:, 0].tolist() != [0, 2, 4, 5]


def test_indices_without_a_channel_always_live(source):
    norm = norm_on(source, torch.tensor([-1, 1, -1, 3]))
    x = torch.randn(2, 4, 3, 3)
    expected = nn.functional.group_norm(
        x[:, [0, 2]], 1, norm.weight[[0, 2]], norm.bias[[0, 2]]
    )
    torch.testing.assert_close(norm(x)[:, [0, 2]], expected)


def test_where_all_live_it_runs_as_it_is(source):
    norm = norm_on(source, torch.tensor([0, 2, 4, 5]))
    x = torch.randn(2, 4, 3, 3)
    plain = nn.functional.group_norm(x, 1, norm.weight, norm.bias)
    assert torch.equal(norm(x), plain)
    source.factor.zero_()
    source.active = False
    assert torch.equal(norm(x), plain)


def test_the_class_comes_back(source):
    norm = norm_on(source, torch.arange(6))
    assert isinstance(norm, nn.GroupNorm)
    release(norm)
    assert type(norm) is nn.GroupNorm
    release(norm)  # harmless


def test_the_input_may_be_given_by_name(source):
    norm = norm_on(source, torch.arange(6))
    x = torch.randn(2, 6, 3, 3)
    assert torch.equal(norm(input=x), norm(x))


class Centred(nn.Module):
    """Keeps a mean of its inputs, beside a weight further below."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 4, 1, bias=False)
        self.register_buffer('seen', torch.zeros(4, 6))

    def forward(self, x):
        if self.training:
            self.seen += self.conv.weight[..., 0, 0] * x.mean((0, 2, 3))
        weight = self.conv.weight - self.conv.weight.mean(1, keepdim=True)
        return nn.functional.conv2d(x, weight)


def test_parameters_below_and_buffers_that_change(source):
    """As of the narrow module, put in their places."""
    module, inputs = Centred(), torch.arange(6)
    outputs = torch.tensor([1, 2, -1, 3])
    tensors = [
        ('conv.weight', 0, outputs),
        ('conv.weight', 1, inputs),
        ('seen', 0, outputs),
        ('seen', 1, inputs),
    ]
    run_on_living(module, Living(source, inputs, outputs, 1, tensors, []))
    rows, columns = torch.tensor([1, 2]), torch.tensor([0, 2, 4, 5])
    small = Centred()
    small.conv = nn.Conv2d(4, 2, 1, bias=False)
    weight = module.conv.weight.detach()[rows][:, columns]
    small.conv.weight = nn.Parameter(weight)
    small.seen = torch.zeros(2, 4)
    x = torch.randn(2, 6, 3, 3)
    with torch.no_grad():
        for _ in range(2):
            found, expected = module(x), small(x[:, columns])
    torch.testing.assert_close(found[:, rows], expected)
    torch.testing.assert_close(module.seen[rows][:, columns], small.seen)
    assert int(module.seen.count_nonzero()) == 8
    assert module.conv.in_channels == 6
