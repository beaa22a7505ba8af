# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What was in memory when a parameter was made decides nothing."""

import math

import pytest
import torch
from torch import Tensor, nn

from mmlapp.core import analyse
from mmlapp.core.uninitialised import filled

NAN = float('nan')


class Queries(nn.Module):
    """Chooses by rank, as detectors do, and raises where there is none."""

    def __init__(self, garbage: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1, dtype=dtype)
        self.level = nn.Parameter(torch.full((8, 1, 1), garbage, dtype=dtype))
        self.last = nn.Conv2d(8, 4, 1, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.first(x) + self.level)
        if not found.isfinite().all():
            raise ValueError('matrix contains invalid numeric entries')
        return found


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('garbage', [0.0, 1e-40, NAN, -math.inf, 1e38])
def test_a_network_is_analysed_the_same(
    garbage: float, dtype: torch.dtype
) -> None:
    model = Queries(garbage, dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = analyse(model, torch.rand(1, 3, 4, 4, dtype=dtype))
    assert [(g.name, g.size) for g in found.groups.prunable] == [('first', 8)]
    for key, value in model.state_dict().items():
        torch.testing.assert_close(
            value, before[key], rtol=0, atol=0, equal_nan=True
        )


def test_only_what_cannot_be_a_weight_is_filled() -> None:
    model = nn.Module()
    model.good = nn.Parameter(torch.tensor([-9e5, 3.0]))
    model.bad = nn.Parameter(torch.tensor([1.0, -2e6]))
    model.tied = model.bad
    model.number = nn.Parameter(torch.tensor([2**40]), requires_grad=False)
    model.none = nn.Parameter(torch.empty(0, 3))
    model.far = nn.Parameter(torch.empty(2, device='meta'))
    model.lazy = nn.LazyLinear(2)
    model.register_buffer('mask', torch.tensor([0.0, -math.inf]))
    model.register_buffer('spoiled', torch.tensor([0.0, NAN]))
    with filled(model):
        assert model.good.tolist() == [-9e5, 3.0]
        assert model.bad.abs().max() <= 0.1
        assert model.number.item() == 2**40
        assert model.mask.tolist() == [0.0, -math.inf]
        assert model.spoiled.abs().max() <= 0.1
    assert model.bad.tolist() == [1.0, -2e6]
    assert model.spoiled[0] == 0
    assert model.spoiled[1].isnan()


def test_values_are_put_back_after_an_error() -> None:
    layer = nn.Linear(2, 1)
    layer.bias.data.fill_(NAN)
    with pytest.raises(KeyError), filled(layer):
        raise KeyError
    assert layer.bias.isnan().all()


def test_random_numbers_of_others_stay() -> None:
    layer = nn.Linear(2, 1)
    layer.bias.data.fill_(NAN)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with filled(layer):
        first = layer.bias.clone()
    assert torch.equal(before, torch.get_rng_state())
    with filled(layer):
        assert torch.equal(first, layer.bias)
