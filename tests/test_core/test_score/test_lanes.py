# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels that are zero in one copy of a batch each."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmlapp.core import attach
from mmlapp.core.mask.gate import ParameterMask
from mmlapp.core.mask.masked import add_mask
from mmlapp.core.score.lanes import Lanes, map_of, repeated, zeroed


@pytest.mark.parametrize(
    ('shape', 'dim'), [((6, 4, 3, 3), 1), ((6, 5, 4), -1), ((6, 4), -1)]
)
def test_every_lane_lacks_its_channels(shape, dim):
    value = torch.rand(shape) + 1
    hit = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    found = zeroed(value, hit, dim)
    for lane in range(3):
        for index in range(4):
            there = found[2 * lane : 2 * lane + 2].select(dim, index)
            own = value[2 * lane : 2 * lane + 2].select(dim, index)
            assert torch.equal(there, 0 * own if hit[lane, index] else own)
    assert (value >= 1).all()  # another one may read it, too


def test_what_has_an_entry_per_image_is_repeated():
    images, scale = torch.rand(2, 3), torch.rand(3)
    given = ((images, scale, torch.tensor(1.0)), {'data': ['a', 'b'], 'n': 2})
    (first, second, third), named = repeated(given, images=2, lanes=3)
    assert torch.equal(first, torch.cat([images] * 3))
    assert second is scale
    assert third.dim() == 0
    assert named == {'data': ['a', 'b'] * 3, 'n': 2}
    assert repeated([images], 2, 2)[0].shape == (4, 3)


@pytest.mark.parametrize(
    ('module', 'dim', 'expected'),
    [
        (nn.Conv2d(4, 4, 1), 0, (False, 1)),
        (nn.Conv2d(4, 4, 1), 1, (True, 1)),
        (nn.Conv1d(4, 4, 1), 0, (False, 1)),
        (nn.Linear(4, 4), 0, (False, -1)),
        (nn.Linear(4, 4), 1, (True, -1)),
        (nn.BatchNorm2d(4), 0, (False, 1)),
        (nn.Conv2d(4, 4, 1, groups=4), 0, (False, 1)),
        (nn.Conv2d(4, 4, 1, groups=2), 1, None),
        (nn.ConvTranspose2d(4, 4, 1), 0, None),
        (nn.LayerNorm(4), 0, None),
        (nn.PReLU(4), 0, None),
    ],
    ids=str,
)
def test_where_a_mask_is_on_a_map(module, dim, expected):
    source = SimpleNamespace(active=True, factor=torch.ones(4))
    mask = ParameterMask(source, torch.arange(4), dim)
    place = map_of(module, mask)
    found = place and (place.reads, place.dim)
    assert found == expected

    class Other(ParameterMask):
        pass

    assert map_of(module, Other(source, mask.channels, 0)) is None


def test_hooks_go_when_the_forward_fails(normed):
    model = normed()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    pruner = attach(model, images)
    lanes = Lanes(model, len(pruner.gate))
    assert lanes.possible.all()

    def hooks():
        return sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks)
            for module in model.modules()
        )

    before = hooks()
    with lanes.without(torch.tensor([0, 1]), 2):
        assert hooks() > before
    with pytest.raises(RuntimeError), lanes.without(torch.tensor([0, 1]), 2):
        model(images[:, :2])
    assert hooks() == before


def test_all_ways_to_a_channel_are_known(normed):
    """One that another mask has, too, cannot run in a lane."""
    model = normed()
    pruner = attach(model, torch.rand(2, 3, 8, 8, dtype=torch.float64))
    mask = ParameterMask(pruner, torch.tensor([-1, 3, -1]), 0)
    model.scale = nn.PReLU(3)
    add_mask(model.scale, 'weight', mask)
    possible = Lanes(model, len(pruner.gate)).possible
    assert (~possible).nonzero().tolist() == [[3]]


def test_what_is_computed_over_the_living_cannot_run_in_a_lane(net, conv):
    model = net(
        lambda m, x: m.fc(m.norm(m.a(x).relu().mean((2, 3)))),
        a=conv(3, 6),
        norm=nn.LayerNorm(6),
        fc=nn.Linear(6, 3),
    )
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    pruner = attach(model, images)
    assert len(pruner.gate) == 6
    assert not Lanes(model, 6).possible.any()
