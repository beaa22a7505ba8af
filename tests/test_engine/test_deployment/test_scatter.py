# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from itertools import product

import pytest
import torch
from torch import nn

from mmlapp.core import ChannelPlan, PruningError, attach, narrow
from mmlapp.core.plan.plan import Kept
from mmlapp.engine.deployment.scatter import GARBAGE, scatter_weights


def test_every_number_has_its_place():
    plan = ChannelPlan(
        {}, {'a.weight': {0: Kept(3, (0, 2)), 1: Kept(2, (1,))}}
    )
    wide = {'a.weight': torch.zeros(3, 2), 'steps': torch.tensor(5)}
    narrow = {
        'a.weight': torch.tensor([[-1.0], [-2.0]]),
        'steps': torch.tensor(7),
    }
    found = scatter_weights(wide, narrow, plan)
    weight = found['a.weight']
    assert weight[[0, 2], 1].tolist() == [-1, -2]
    rest = weight[[0, 1, 1, 2], [0, 0, 1, 0]]
    assert ((rest >= GARBAGE / 2) & (rest <= GARBAGE * 1.5)).all()
    assert found['steps'] == 7
    assert wide['a.weight'].eq(0).all()


@pytest.mark.parametrize(
    ('bypass', 'unit'),
    [
        *product(
            ['depthwise', 'grouped', dict(type='pointwise', norm=True)],
            ['channels', 'filters'],
        ),
        ('repvgg', 'channels'),
        (dict(type='asymmetric', norm=False), 'channels'),
        (None, 'stripes'),
    ],
)
def test_it_undoes_narrowing(bypass, unit):
    """All that the narrow network has, branches split into parts included."""
    torch.manual_seed(0)

    def build():
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 4, 3, padding=1),
        )

    image = torch.rand(2, 3, 9, 9)
    model, twin = build(), build()
    for one in (model, twin):
        attach(one, image, bypass=bypass, unit=unit)
    mask = torch.rand(len(model.pruner.gate)) < 0.4
    sizes = torch.tensor(model.pruner.sizes)
    mask[sizes.cumsum(0) - sizes] = True  # one part of every group
    for one in (model, twin):
        one.pruner.set_mask(mask, {'flops': 0.5})
    plan = model.pruner.plan()
    narrow(model, plan).eval()
    wide = {
        name: value
        for name, value in twin.state_dict().items()
        if not name.startswith('pruner.')
    }
    weights = scatter_weights(wide, model.state_dict(), plan)
    assert not twin.load_state_dict(weights, strict=False).unexpected_keys
    torch.testing.assert_close(twin.eval()(image), model(image))
    # And the other way: narrowing takes what was put there.
    again = narrow(twin, plan).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(again[name], value), name


def test_what_has_no_place():
    plan = ChannelPlan({}, {'a': {0: Kept(3, (0, 2))}})
    for name, size in (('a', 3), ('b', 1)):
        with pytest.raises(PruningError, match=f'no place for {name} of sh'):
            scatter_weights(
                {'a': torch.zeros(3)}, {name: torch.zeros(size)}, plan
            )
