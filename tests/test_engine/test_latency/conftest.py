# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A small network, and a clock that functions move on."""

import pytest
import torch
from torch import nn


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
