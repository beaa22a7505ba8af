# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are no numbers are found by name."""

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints.finite import (
    check_finite,
    infinite_buffers,
)


def test_the_parameter_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_finite(model)
    model[1].bias.data[0] = float('inf')
    with pytest.raises(PruningError, match=r'1\.bias is not finite'):
        check_finite(model)


INF, NAN = float('inf'), float('nan')


def with_mask(*values: float) -> nn.Module:
    model = nn.Sequential(nn.BatchNorm1d(2))
    model.register_buffer('mask', torch.tensor(values))
    model.register_buffer('scratch', torch.tensor(NAN), persistent=False)
    return model


def test_buffers_must_be_finite_too() -> None:
    model = with_mask(0, 1)
    check_finite(model)
    model[0].running_var[1] = INF
    with pytest.raises(PruningError, match=r'^0\.running_var is not finite'):
        check_finite(model)


def test_what_is_infinite_by_intention_is_no_divergence() -> None:
    model = with_mask(0, -INF)
    infinite = infinite_buffers(model)
    assert infinite == {'mask'}
    check_finite(model, infinite)
    model.mask[0] = NAN
    with pytest.raises(PruningError, match=r'^mask is not finite'):
        check_finite(model, infinite)
    model.mask[0] = 0
    model[0].running_mean[0] = -INF
    with pytest.raises(PruningError, match=r'^0\.running_mean is not finite'):
        check_finite(model, infinite)
