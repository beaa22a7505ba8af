# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmlapp.core.dice import dice_in, put_back

PLACES = {
    'an attribute': lambda die: die,
    'a list of dictionaries': lambda die: [1, {'a': (die,)}],
    'an object in a list': lambda die: [SimpleNamespace(die=die)],
    'an argument': lambda die: partial(torch.randn, generator=die),
    'what a method is of': lambda die: SimpleNamespace(f=Holder(die).draw),
    'a module that is no part': lambda die: [with_attribute(die)],
}


class Holder:
    def __init__(self, die):
        self.die = die

    def draw(self):
        return self.die


def with_attribute(held):
    module = nn.Linear(2, 1)
    module.held = held
    return module


@pytest.mark.parametrize('place', PLACES)
def test_generators_are_found(place):
    die = torch.Generator()
    model = nn.Sequential(with_attribute(PLACES[place](die)))
    model.same = model[0].held
    (found,) = dice_in(model.modules())
    assert found is die


def test_a_hook_may_hold_one():
    layer, die = nn.Linear(2, 1), random.Random(1)
    layer.register_forward_hook(lambda m, x, y: y)
    layer.register_forward_pre_hook(partial(print, die))
    assert dice_in([layer]) == [die]


def test_what_has_no_state_is_left_alone():
    class Slotted:
        __slots__ = ()

        def __getattr__(self, name):
            raise RuntimeError

    layer = with_attribute([random.SystemRandom(), Slotted(), np, nn.Linear])
    layer.circle = layer.held
    layer.held.append(layer.held)
    assert dice_in([layer]) == []


@pytest.mark.parametrize(
    ('die', 'draw'),
    [
        (torch.Generator(), lambda die: float(torch.rand((), generator=die))),
        (random.Random(1), lambda die: die.random()),
        (np.random.default_rng(1), lambda die: die.random()),
        (np.random.RandomState(1), lambda die: die.rand()),
    ],
)
def test_states_are_put_back(die, draw):
    with put_back([die]):
        first = draw(die), draw(die)
    drawn = []
    for seed in (0, 0, 1):
        with put_back([die], seed):
            drawn.append(draw(die))
    assert drawn[0] == drawn[1] != drawn[2]
    assert (draw(die), draw(die)) == first
