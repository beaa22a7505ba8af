# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core.analysis.values import RandomValues
from mmlapp.core.plan.kept import Kept
from mmlapp.core.snapshot import Before, computing


@pytest.fixture
def small():
    model = nn.Sequential(
        nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3)
    )
    model.gain = nn.Parameter(torch.zeros(1, 1, 32))
    model.scale = nn.Parameter(torch.tensor(0.0))
    model.register_buffer('mask', torch.tensor([0.0, float('-inf')]))
    model.register_buffer('table', torch.arange(4))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def named(model, **arguments):
    """Values by name, as the network sees them."""
    twins = RandomValues(model).draw(torch.float64, {}, **arguments)
    with computing(Before(model), twins, torch.float64):
        return model.state_dict()


def test_gates_are_open_and_shifts_are_small(small):
    found = named(small)
    for name in ('1.weight', '1.running_var', 'scale'):
        assert found[name].min() >= 0.5
        assert found[name].max() <= 1.5
    for name in ('0.bias', '1.bias', '1.running_mean'):
        assert found[name].min() >= 0.125
        assert found[name].max() <= 0.375


@pytest.mark.parametrize(
    ('positive', 'name', 'fan_in', 'power'),
    [
        (False, '0.weight', 144, 0.5),
        (False, '2.weight', 288, 0.5),
        (False, 'gain', 32, 0.5),
        (True, '0.weight', 144, 1),
    ],
)
def test_weights_are_scaled_by_what_they_sum(
    small, positive, name, fan_in, power
):
    value = named(small, positive=positive)[name] * fan_in**power
    # Rounded to half powers of two, a factor of at most 2 ** 0.25.
    assert value.abs().min() >= 0.5 / 2**0.25
    assert value.abs().max() <= 1.5 * 2**0.25
    assert bool((value > 0).all()) is positive


def test_what_a_plan_keeps_counts(small):
    kept = {'2.weight': {1: Kept(32, (3, 4))}}
    twins = RandomValues(small).draw(torch.float64, kept)
    narrow = twins[id(small[2].weight)].detach().abs().mean()
    wide = named(small)['2.weight'].abs().mean()
    assert narrow / wide == pytest.approx(4, rel=0.2)  # (32 / 2) ** 0.5


def test_other_buffers_mean_something(small):
    found = named(small)
    assert found['mask'].tolist() == [0, float('-inf')]
    assert found['mask'].dtype == torch.float64
    assert torch.equal(found['table'], torch.arange(4))
    assert found['1.num_batches_tracked'] == 0


def test_nothing_but_names_shapes_and_order_counts(small):
    torch.manual_seed(3)
    random = torch.get_rng_state()
    first = named(small)
    assert torch.equal(torch.get_rng_state(), random)
    for parameter in small.parameters():
        nn.init.normal_(parameter)
    second = named(small.half())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_parameters_of_one_shape_are_not_the_same(small):
    small[0] = nn.Conv2d(32, 32, 3)
    found = named(small)
    assert not torch.equal(found['0.weight'], found['2.weight'])
    rows = found['0.weight'].flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)


def test_large_linear_layers_take_no_memory():
    """Their rows overlap, and are not the same."""
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024))
    found = [
        v.detach()
        for v in RandomValues(model).draw(torch.float64, {}).values()
    ]
    storages = {v.untyped_storage().data_ptr(): v for v in found}
    numbers = sum(v.untyped_storage().nbytes() // 8 for v in storages.values())
    assert numbers < sum(v.numel() for v in found) / 4
    rows = torch.cat([v for v in found if v.dim() == 2])
    assert len(rows.unique(dim=0)) == len(rows)
    assert len(rows.T.unique(dim=0)) == 1024
    # Nearly at right angles, as random ones are.
    cosines = nn.functional.normalize(rows) @ nn.functional.normalize(rows).T
    assert cosines.fill_diagonal_(0).abs().max() < 0.25
    alone = RandomValues(model).draw(torch.float64, {}, alone=True)
    for layer, value in zip(
        model, (v for v in found if v.dim() == 2), strict=True
    ):
        assert torch.equal(alone[id(layer.weight)], value)
        assert alone[id(layer.weight)].is_contiguous()


@pytest.mark.parametrize('alone', [False, True])
def test_memory_may_be_shared_or_not(small, alone):
    twins = RandomValues(small).draw(torch.float64, {}, alone=alone)
    first, second = (twins[id(small[i].bias)] for i in (0, 2))
    storages = {t.untyped_storage().data_ptr() for t in (first, second)}
    assert (len(storages) == 2) is alone


def test_a_shared_parameter_stays_shared(small):
    small[2] = small[0]
    twins = RandomValues(small).draw(torch.float64, {})
    with computing(Before(small), twins, torch.float64):
        assert small[2].weight is small[0].weight


def test_frozen_norms_keep_their_scale_in_buffers():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ('weight', 'bias', 'running_mean', 'running_var'):
                self.register_buffer(name, torch.zeros(4))

    found = named(nn.Sequential(Frozen()))
    assert all(value.min() > 0.1 for value in found.values())
