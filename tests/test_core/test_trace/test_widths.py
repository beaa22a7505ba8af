# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes that count channels, noted with the labels of those."""

import copy

import pytest
import torch
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.core.plan.plan import ChannelPlan
from mmlapp.core.trace import trace


class Block(nn.Module):
    """Keeps numbers that its forward does not read."""

    def __init__(self, **numbers):
        super().__init__()
        vars(self).update(numbers)
        self.conv = nn.Conv2d(4, 6, 1)

    def forward(self, x):
        return self.conv(x)


class Reading(Block):
    def forward(self, x):
        return self.conv(x) * self.in_channels


def widths(block, *args):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), block)
    args = args or (torch.rand(1, 3, 5, 5),)
    record = trace(net, lambda: net(*args))
    rows = (
        record.nodes_of('0.weight', 0, 4),
        record.nodes_of('1.conv.weight', 0, 6),
    )
    return record.widths, rows


def test_what_comes_in_and_what_goes_out():
    found, (entered, left) = widths(Block(in_channels=4, out_chs=6))
    assert set(found) == {'1.in_channels', '1.out_chs'}
    assert found['1.in_channels'][0].tolist() == entered.tolist()
    assert found['1.out_chs'][0].tolist() == left.tolist()


@pytest.mark.parametrize(
    ('entering', 'leaving'),
    [
        ('c1', 'c2'),
        ('inp', 'oup'),
        ('in_ch', 'out_ch'),
        ('c_in', 'c_out'),
        ('n_in', 'n_out'),
    ],
)
def test_short_names_say_a_side_too(entering, leaving):
    found, (entered, left) = widths(Block(**{entering: 4, leaving: 6}))
    assert found[f'1.{entering}'][0].tolist() == entered.tolist()
    assert found[f'1.{leaving}'][0].tolist() == left.tolist()


def test_a_number_of_something_else_is_not_noted():
    assert widths(Block(in_channels=5, out_channels=4, depth=4))[0] == {}


def test_a_number_that_is_no_integer_is_not_noted():
    assert widths(Block(in_channels=4.0, out_channels='6'))[0] == {}


def test_what_the_forward_reads_is_not_noted():
    assert widths(Reading(in_channels=4, out_channels=6))[0].keys() == {
        '1.out_channels'
    }


def test_groups_without_a_grouped_layer_are_the_channels_that_come_in():
    assert '1.groups' in widths(Block(groups=4))[0]


def test_groups_of_a_grouped_layer_are_left_to_it():
    block = Block(groups=4)
    block.other = nn.Conv2d(4, 4, 1, groups=4)
    assert '1.groups' not in widths(block)[0]


def test_a_registered_block_sets_its_own():
    found, _ = widths(nn.BatchNorm2d(4))
    assert found == {}


class Own(nn.Transformer):
    """One whose class is no library's."""


class Translating(nn.Module):
    """Two sequences that a Transformer reads."""

    def __init__(self, kind=nn.Transformer, **arguments):
        super().__init__()
        self.source, self.target = nn.Linear(4, 12), nn.Linear(3, 12)
        sizes = 12, 4, 2, 1, 10, 0.0
        self.part = kind(*sizes, **arguments)
        self.last = nn.Linear(12, 5)

    def forward(self, x, y):
        return self.last(self.part(self.source(x), self.target(y)))


@pytest.mark.filterwarnings('ignore:.*nested')
@pytest.mark.parametrize('kind', [nn.Transformer, Own])
@pytest.mark.parametrize(
    'arguments', [{}, {'batch_first': True}, {'norm_first': True}], ids=str
)
@torch.no_grad()
def test_a_transformer_loses_channels_of_its_streams(
    kind, arguments, mask_randomly
):
    """It compares how wide its inputs are with its own number."""
    model = Translating(kind, **arguments).double().eval()
    inputs = [torch.rand(2, 2, size, dtype=torch.float64) for size in (4, 3)]
    pruner = attach(model, tuple(inputs))
    sizes = {g.name: g.size for g in pruner.groups}
    assert (sizes['source'], len(sizes)) == (12, 8)
    for keep in (0.75, 0.4):
        mask_randomly(pruner, keep)
        masked = model(*inputs)
        plan = ChannelPlan.from_json(pruner.plan().to_json())
        slim = narrow(Translating(kind, **arguments).double().eval(), plan)
        slim.load_state_dict(narrow(copy.deepcopy(model), plan).state_dict())
        torch.testing.assert_close(slim(*inputs), masked, rtol=0, atol=1e-11)
        assert slim.part.d_model == slim.source.out_features < 12
    assert model.part.d_model == 12
