# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A small network, and a clock that functions move on."""

import math

import pytest
import torch
from torch import nn

from mmlapp.core import analyse
from mmlapp.core.cost.flops import multiply_adds
from mmlapp.core.trace import trace
from mmlapp.engine.latency import measure, whole_networks
from mmlapp.engine.latency.shapes import shape_at
from mmlapp.engine.latency.subject import Procedure, Subject


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def takes(self, seconds):
        """A function that takes so long; of a list each in turn."""
        times = seconds if isinstance(seconds, list) else [seconds]
        turn = iter(range(10**6))

        def run():
            self.now += times[next(turn) % len(times)]

        return run


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


@pytest.fixture
def images():
    return torch.rand(1, 3, 8, 8)


@pytest.fixture
def subject(network, images):
    return Subject('small', network, analyse(network, images), images)


@pytest.fixture
def pretend(monkeypatch, clock, images):
    """Layers take a nanosecond for each multiply-add; so do networks."""
    ran = []

    def seconds(call, widths):
        shape = shape_at(call, widths)
        positions = math.prod(call.outputs[2:]) * call.inputs[0]
        return 1e-9 * positions * math.prod(shape.weight)

    def layer_run(call, widths, setting):
        ran.append(call.name)
        return clock.takes(seconds(call, widths))

    def network_run(network, images, setting):
        calls = trace(network, lambda: network(images)).calls
        return clock.takes(1e-9 * sum(map(multiply_adds, calls)))

    monkeypatch.setattr(measure, 'layer_run', layer_run)
    monkeypatch.setattr(whole_networks, 'network_run', network_run)
    return ran


@pytest.fixture
def procedure(clock):
    return Procedure(points=4, rounds=2, divisor=2, clock=clock)
