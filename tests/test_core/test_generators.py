# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmlapp.core.generators import generators_in, put_back

PLACES = {
    'an attribute': lambda generator: generator,
    'a list of dictionaries': lambda generator: [1, {'a': (generator,)}],
    'an object in a list': lambda generator: [
        SimpleNamespace(generator=generator)
    ],
    'an argument': lambda generator: partial(torch.randn, generator=generator),
    'what a method is of': lambda generator: SimpleNamespace(
        f=Holder(generator).draw
    ),
    'a module that is no part': lambda generator: [with_attribute(generator)],
}


class Holder:
    def __init__(self, generator):
        self.generator = generator

    def draw(self):
        return self.generator


def with_attribute(held):
    module = nn.Linear(2, 1)
    module.held = held
    return module


@pytest.mark.parametrize('place', PLACES)
def test_generators_are_found(place):
    generator = torch.Generator()
    model = nn.Sequential(with_attribute(PLACES[place](generator)))
    model.same = model[0].held
    (found,) = generators_in(model.modules())
    assert found is generator


def test_a_hook_may_hold_one():
    layer, generator = nn.Linear(2, 1), random.Random(1)
    layer.register_forward_hook(lambda m, x, y: y)
    layer.register_forward_pre_hook(partial(print, generator))
    assert generators_in([layer]) == [generator]


def test_what_has_no_state_is_left_alone():
    class Slotted:
        __slots__ = ()

        def __getattr__(self, name):
            raise RuntimeError

    layer = with_attribute([random.SystemRandom(), Slotted(), np, nn.Linear])
    layer.circle = layer.held
    layer.held.append(layer.held)
    assert generators_in([layer]) == []


@pytest.mark.parametrize(
    ('generator', 'draw'),
    [
        (
            torch.Generator(),
            lambda generator: float(torch.rand((), generator=generator)),
        ),
        (random.Random(1), lambda generator: generator.random()),
        (np.random.default_rng(1), lambda generator: generator.random()),
        (np.random.RandomState(1), lambda generator: generator.rand()),
    ],
)
def test_states_are_put_back(generator, draw):
    with put_back([generator]):
        first = draw(generator), draw(generator)
    drawn = []
    for seed in (0, 0, 1):
        with put_back([generator], seed):
            drawn.append(draw(generator))
    assert drawn[0] == drawn[1] != drawn[2]
    assert (draw(generator), draw(generator)) == first
