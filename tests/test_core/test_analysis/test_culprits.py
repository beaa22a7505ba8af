# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whom a trial freezes, and what it says of them."""

import pytest
import torch
from torch import nn

from mmlapp.core import analyse


class Gate(nn.Module):
    """Two convolutions and what somebody does between them."""

    def __init__(self, conv, function):
        super().__init__()
        self.a, self.b, self.function = conv(6, 8), conv(8, 6), function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


class Other(Gate):
    """One without mistakes."""


def at_least(number):
    def function(y):
        if int(y.shape[1]) < number:
            raise RuntimeError('needs more')
        return y

    return function


def no_number(y):
    return y / (0 if int(y.shape[1]) == 1 else 1)


def broadcast(y):
    return y * (2 if int(y.shape[1]) == 1 else 1)


def constant(y):
    return y.reshape(len(y), 8, *y.shape[2:])


def shares(y):
    return y / y.shape[1]


@pytest.mark.parametrize(
    ('function', 'reason'),
    [
        (at_least(3), 'Gate does not run with two of them left'),
        (
            broadcast,
            'with one of them left, Gate would compute something else',
        ),
        (constant, 'Gate does not run with fewer of them'),
        (shares, 'with fewer of them, Gate would compute something else'),
    ],
)
def test_who_what_and_with_how_many(conv, frozen, function, reason):
    model = nn.Sequential(
        conv(3, 6),
        Other(conv, nn.Identity()),
        Gate(conv, function),
        Other(conv, nn.Identity()),
        conv(6, 5),
    )
    found = frozen(model, torch.rand(2, 3, 8, 8))
    assert found == {'2.a': reason, '4': 'output of the network'}


@pytest.mark.parametrize('function', [at_least(2), no_number])
def test_what_stops_with_one_channel_keeps_two(conv, agree, function):
    model = nn.Sequential(
        conv(3, 6),
        Gate(conv, function),
        Other(conv, nn.Identity()),
        conv(6, 5),
    )
    result = agree(model.double(), torch.rand(2, 3, 8, 8).double(), keep=0.0)
    floors = {info.name: info.floor for info in result.pruner.groups}
    assert floors == {'0': 1, '1.a': 2, '1.b': 1, '2.a': 1, '2.b': 1}


def test_of_two_channels_none_can_go_where_one_is_not_enough(conv, frozen):
    model = nn.Sequential(conv(3, 2), Gate(conv, at_least(2)), conv(6, 5))
    model[1].a = conv(2, 2)
    model[1].b = conv(2, 6)
    found = frozen(model, torch.rand(2, 3, 8, 8))
    assert found['1.a'] == 'Gate does not run with fewer of them'


@pytest.mark.parametrize('width', [2, 8])
def test_with_how_many_in_training(conv, frozen, width):
    def function(y):
        if model[1].training and int(y.shape[1]) <= min(width, 7):
            raise RuntimeError('too narrow')
        return y

    model = nn.Sequential(conv(3, 6), Gate(conv, function), conv(6, 5))
    count = 'two of them left' if width == 2 else 'fewer of them'
    assert frozen(model, torch.rand(2, 3, 8, 8))['1.a'] == (
        f'Gate does not run with {count} in training'
    )


def test_two_mistakes_are_found_one_after_the_other(conv, frozen):
    model = nn.Sequential(
        conv(3, 6), Gate(conv, shares), Gate(conv, broadcast), conv(6, 5)
    )
    found = frozen(model, torch.rand(2, 3, 8, 8))
    assert found['1.a'].startswith('with fewer of them, Gate')
    assert found['2.a'].startswith('with one of them left, Gate')
    assert set(found) == {'1.a', '2.a', '3'}


def test_equal_mistakes_are_found_in_one_search(conv, frozen):
    """In a few runs for each; once it was a search, and all checks, each."""
    runs = []

    class First(nn.Conv2d):
        def forward(self, x):
            runs.append(len(self.weight))
            return super().forward(x)

    gates = [Gate(conv, shares) for _ in range(8)]
    model = nn.Sequential(First(3, 6, 1), *gates, conv(6, 5))
    found = frozen(model, torch.rand(2, 3, 8, 8))
    assert set(found) == {*(f'{n}.a' for n in range(1, 9)), '9'}
    assert len(runs) < 120


def test_what_hides_behind_one_channel_alone_is_seen(conv, frozen):
    """Each layer of a chain has one channel left, and none is silenced."""
    layers = [layer for _ in range(12) for layer in (conv(6, 6), nn.ReLU())]
    model = nn.Sequential(conv(3, 6), Gate(conv, broadcast), *layers)
    model.append(conv(6, 5))
    found = frozen(model, torch.randn(1, 3, 8, 8))
    assert set(found) == {'1.a', '26'}


def test_groups_are_gathered_until_all_checks_pass(conv):
    model = nn.Sequential(conv(3, 6), Gate(conv, constant), conv(6, 5))
    analysis = analyse(model, torch.rand(2, 3, 8, 8))
    assert {g.name: g.size for g in analysis.groups.prunable} == {
        '0': 6,
        '1.b': 6,
    }
