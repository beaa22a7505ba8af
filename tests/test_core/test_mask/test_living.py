# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A module that runs on living channels alone."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

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
