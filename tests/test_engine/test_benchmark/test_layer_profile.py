# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.engine.benchmark.layer_profile import Stopwatch, layer_times


class Slow(nn.Module):
    """Takes a time of its own on a made-up clock."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x):
        self.clock.now += self.seconds
        return x


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_every_module_has_its_own_time():
    clock = Clock()
    inner = Slow(clock, 3.0)
    # The block is no innermost module; what runs twice is added up.
    networks = {
        'dense': nn.Sequential(
            Slow(clock, 1.0), nn.ModuleDict({'a': inner})['a'], inner
        ),
        'slim': nn.Sequential(Slow(clock, 0.5)),
    }
    found = layer_times(
        networks, torch.zeros(1), threads=1, rounds=4, clock=clock
    )
    assert found == {'0': {'dense': 1.0, 'slim': 0.5}, '1': {'dense': 6.0}}


def test_hooks_are_taken_off():
    network = nn.Sequential(nn.Identity())
    with pytest.raises(RuntimeError), Stopwatch(network):
        raise RuntimeError
    assert not network[0]._forward_hooks
    assert not network[0]._forward_pre_hooks


def test_warming_up_is_left_out():
    clock = Clock()
    watch = Stopwatch(nn.Sequential(Slow(clock, 1.0)), clock)
    with watch:
        for seconds in (9.0, 1.0, 2.0, 3.0):
            watch.network[0].seconds = seconds
            watch.run(torch.zeros(1))
    assert watch.medians(skip=1) == {'0': 2.0}
