# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a method puts in the place of the gate, for one forward."""

import copy
import io

import pytest
import torch

from mmlapp.core import Method, attach


class Halves(Method):
    """In training all masks are half of a learned number."""

    def setup(self, pruner):
        self.number = torch.tensor(1.0, requires_grad=True)

    def relaxed(self, pruner):
        return 0.5 * self.number * torch.ones_like(pruner.scores)

    def step(self, pruner):
        return torch.ones_like(pruner.scores)

    def ranking(self, pruner):
        return pruner.scores


@pytest.fixture
def halved(model, images):
    pruner = attach(model, images, method=Halves())
    pruner.begin({'flops': 0.5}, 4)
    return model


def test_it_stands_in_in_training_alone(halved, images):
    pruner = halved.pruner
    expected = halved.eval()(images)
    assert pruner.factor is pruner.gate
    halved.train().norm.eval()
    halved(images)
    assert pruner.factor.tolist() == [0.5] * 36
    assert torch.equal(pruner.gate, torch.ones(36))
    assert torch.equal(halved.eval()(images), expected)


@pytest.mark.parametrize('how', ['step', 'finish', 'reset'])
def test_it_goes_with_the_forward_that_it_was_made_for(halved, images, how):
    halved(images)
    getattr(halved.pruner, how)()
    assert halved.pruner.factor is halved.pruner.gate
    if how != 'step':
        halved(images)
        assert halved.pruner.factor is halved.pruner.gate


def test_whatever_it_was_computed_from_learns(halved, images):
    halved(images).square().sum().backward()
    number = halved.pruner.method.number
    found, number.grad = number.grad, None
    change = 1e-3
    with torch.no_grad():
        sums = []
        for sign in (1, -1):
            number += sign * change
            sums.append(float(halved(images).double().square().sum()))
            number -= sign * change
    expected = (sums[0] - sums[1]) / (2 * change)
    assert float(found) == pytest.approx(expected, rel=0.01)


def test_who_asks_for_the_gradient_by_the_gate_gets_it(make, images):
    """All masks are half of one number: its gradient is half of the sum."""
    model = make()
    pruner = attach(model, images, method=Halves(), protect=0.25)
    pruner.begin({'flops': 0.5}, 4)
    model(images).square().sum().backward()
    found = float(pruner.gate.grad.sum())
    assert float(pruner.method.number.grad) == pytest.approx(found / 2)


def test_a_copy_in_the_middle_of_a_step(halved, images):
    halved(images)
    assert halved.pruner.stand_in.value.grad_fn is not None
    twin = copy.deepcopy(halved)
    assert twin.pruner.factor is twin.pruner.gate
    file = io.BytesIO()
    torch.save(halved.pruner.stand_in, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).value is None
