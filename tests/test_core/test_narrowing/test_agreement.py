# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Plans whose entries are each well formed, and contradict each other."""

import copy
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmlapp.core import ChannelPlan, PruningError, attach, narrow
from mmlapp.core.narrowing.agreement import find_disagreement
from mmlapp.core.plan.kept import Kept


def other(kept, count):
    """As many or fewer indices, others than these."""
    gone = [i for i in range(kept.size) if i not in kept.index]
    return Kept(kept.size, sorted([*kept.index[1:], gone[0]])[:count])


def forgeries(plan):
    """The plan with one slice or attribute changed, by what it is."""
    for name, dims in plan.slices.items():
        for dim, kept in dims.items():
            for count in (kept.count, kept.count - 1):
                forged = {**dims, dim: other(kept, count)}
                slices = {**plan.slices, name: forged}
                yield (name, dim), replace(plan, slices=slices)
    for name, kept in plan.attributes.items():
        forged = other(kept, kept.count - 1)
        attributes = {**plan.attributes, name: forged}
        yield name, replace(plan, attributes=attributes)
    for name, kept in plan.groups.items():
        groups = {**plan.groups, name: other(kept, kept.count)}
        yield name, replace(plan, groups=groups)


def refused(model, plan):
    """Whether a file of it, with a right digest, is refused as a whole."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plan = ChannelPlan.from_json(plan.to_json())
    trial = copy.deepcopy(model)
    with suppress(PruningError):
        narrow(trial, plan)
        return False
    for name, value in trial.state_dict().items():
        assert torch.equal(value, before[name])
    return True


@pytest.fixture
def some():
    """A mask that keeps 3 of 4 channels."""

    def keep(pruner):
        mask = torch.arange(len(pruner.gate)) % 4 > 0
        pruner.set_mask(mask)
        return pruner.plan()

    return keep


@pytest.mark.parametrize(
    ('unit', 'bypass'),
    [('channels', None), ('channels', 'depthwise'), ('filters', 'pointwise')],
)
def test_a_prunable_network_knows_its_plans(make, image, some, unit, bypass):
    model = make()
    pruner = attach(model, image, unit=unit, bypass=bypass)
    # Masks that all live would be compared by another check.
    plan = some(pruner)
    pruner.reset()
    assert find_disagreement(model, plan) is None
    cases = list(forgeries(plan))
    assert len(cases) > 8
    for name, forged in cases:
        assert refused(model, forged), name


def test_a_tensor_has_one_slice_under_all_its_names():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4))
    model[1].weight = model[0].weight
    kept, less = Kept(4, (0, 2)), Kept(4, (0, 1))
    slices = {'0.weight': {0: kept}, '0.bias': {0: kept}, '1.bias': {0: less}}
    assert find_disagreement(model, ChannelPlan({}, slices)) is None
    slices['1.weight'] = {0: kept}
    assert find_disagreement(model, ChannelPlan({}, slices)) is None
    slices['1.weight'] = {0: less}
    text = find_disagreement(model, ChannelPlan({}, slices))
    assert text == '0.weight and 1.weight are one tensor and keep others'


def test_plans_of_another_scope_are_not_compared(make, image, some):
    """They follow from other groups, and fit all the same."""
    plan = some(attach(make(), image, scope='a'))
    model = make()
    attach(model, image)
    narrow(model, plan)
    assert model.a.out_channels == plan.groups['a'].count == 6
    assert model.b.out_channels == 8


class Wired(nn.Module):
    """Four layers in a chain, of which two may be added."""

    def __init__(self, residual):
        super().__init__()
        widths = 8, 8, 8, 4
        self.a, self.b, self.c, self.d = (
            nn.Conv2d(8, n, 3, padding=1) for n in widths
        )
        self.residual = residual

    def forward(self, x):
        a = self.a(x).relu()
        c = self.c(self.b(a).relu()).relu()
        return self.d(a + c if self.residual else c)


@pytest.mark.parametrize(
    'gone',
    [
        # As many of each, which a sum would take for the same.
        [*range(4), *range(12, 16), *range(20, 24)],
        [*range(4)],
    ],
)
def test_plans_of_another_wiring_are_refused(gone):
    """They have the same tensors, and other channels go together."""
    x = torch.rand(2, 8, 8, 8)
    pruner = attach(Wired(residual=False), x)
    mask = torch.ones(24, dtype=torch.bool)
    mask[gone] = False
    pruner.set_mask(mask)
    model = Wired(residual=True)
    attach(model, x)
    with pytest.raises(PruningError, match=r'others of c\.\w+ than of a'):
        narrow(model, pruner.plan())
    assert model.a.out_channels == 8
    # The chain takes the plan of the sum, in which all of a group go.
    pruner = attach(Wired(residual=True), x)
    pruner.set_mask(torch.arange(16) % 3 > 0)
    chain = Wired(residual=False)
    attach(chain, x)
    narrow(chain, pruner.plan())
    assert chain.a.out_channels == chain.c.out_channels
