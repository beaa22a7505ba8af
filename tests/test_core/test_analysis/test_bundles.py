# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Code that runs with multiples of some number of channels alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import analyse, attach, narrow


def blocks(model, image):
    """How many channels go together, by group."""
    found = analyse(model, image).groups.prunable
    return {group.name: group.block for group in found}


def asking(net, conv, number, width=16):
    """Its middle layer goes on with multiples of a number alone."""

    def forward(m, x):
        y = m.b(m.a(x).relu())
        # As an int: what the tracer follows tells it what is asked.
        assert not int(str(y.shape[1])) % number, 'uneven'
        return m.c(y.relu())

    return net(
        forward, a=conv(3, width), b=conv(width, width), c=conv(width, 5)
    )


@pytest.mark.parametrize('number', [2, 4, 8])
def test_as_many_as_are_asked_for_go_together(
    net, conv, image, agree_everywhere, number
):
    model = asking(net, conv, number)
    # The layer before is as free as it was.
    assert blocks(model, image) == {'a': 1, 'b': number}
    agree_everywhere(model, image)


@pytest.mark.parametrize(
    ('number', 'width'), [(3, 12), (5, 15), (16, 32), (8, 8)]
)
def test_what_no_bundle_helps_is_frozen(
    net, conv, image, frozen, number, width
):
    model = asking(net, conv, number, width)
    assert 'does not run with' in frozen(model, image)['b']
    assert blocks(model, image) == {'a': 1}


class Padded(nn.Module):
    """Pads positions and, by mistake, channels to even numbers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.norm, self.last = nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x):
        y = self.first(x).flatten(2).transpose(1, 2)
        length, width = int(str(y.shape[1])), int(str(y.shape[2]))
        y = functional.pad(y, (0, -width % 2, 0, -length % 2))
        return self.last(self.norm(y))


def test_channels_that_are_padded_to_an_even_number(agree_everywhere):
    torch.manual_seed(0)
    model, image = Padded().double(), torch.randn(2, 3, 4, 4).double()
    assert blocks(model, image) == {'first': 2}
    agree_everywhere(model, image)


def test_a_budget_is_met_in_bundles(net, conv, image):
    model = asking(net, conv, 4).eval()
    pruner = attach(model, image)
    pruner.begin({'flops': 0.5}, steps=1)
    pruner.step()
    plan = pruner.plan()
    assert pruner.ratios()['flops'] <= 0.5
    masked = model(image)
    narrow(model, plan)
    assert model.b.out_channels % 4 == 0
    assert model.b.out_channels < 16
    torch.testing.assert_close(model(image), masked)


def test_blocks_alike_go_in_bundles_together(conv, image):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(6, 8), conv(8, 6)

        def forward(self, x):
            y = self.a(x)
            assert not int(str(y.shape[1])) % 2
            return x + self.b(y)

    rest = [Block() for _ in range(5)]
    model = nn.Sequential(conv(3, 6), *rest, conv(6, 2)).double()
    found = blocks(model, image)
    assert {found[f'{number}.a'] for number in range(1, 6)} == {2}
    assert found['0'] == 1
