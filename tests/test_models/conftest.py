# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Counts that do not go through mmlapp, for the tests of its models."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

CountMacs = Callable[[nn.Module, tuple[int, ...]], int]


@pytest.fixture
def count_macs() -> CountMacs:
    """Multiply-adds of convolutions and linear layers for one input."""

    def count(model: nn.Module, shape: tuple[int, ...]) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.rand(1, *shape))
        return counter.get_total_flops() // 2

    return count
