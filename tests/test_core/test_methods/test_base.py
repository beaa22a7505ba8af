# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the pruner asks of any method, and what it makes of the answers."""

import pytest
import torch

from mmlapp.core import Method, Phase, PruningError, attach, register_method
from mmlapp.core.methods import METHODS


class Half(Method):
    """Half open gates, which are written down for the tests."""

    uses_gradient = True

    def setup(self, pruner):
        self.register_buffer('seen', torch.zeros_like(pruner.gate))
        self.calls = []

    def step(self, pruner):
        self.calls.append(pruner.progress.done)
        if pruner.gradient is not None:
            self.seen.copy_(pruner.gradient)
        return torch.full_like(pruner.gate, 0.5)

    def ranking(self, pruner):
        return pruner.scores

    def finish(self, pruner):
        self.calls.append('finish')


def test_methods_of_the_product_are_there():
    assert {'lapp', 'uniform', 'random'} <= set(METHODS)


def test_a_gate_between_zero_and_one_scales(model, images, read):
    """Everything lives, at half of its size; at the end it is 0 or 1."""
    pruner = attach(model, images, method=Half())
    pruner.begin({'flops': 0.5}, 3)
    pruner.step()
    assert pruner.mask.all()
    assert set(pruner.gate.tolist()) == {0.5}
    weight = model.a._parameters['weight']
    torch.testing.assert_close(read(model.a), weight / 2)
    pruner.step()
    pruner.step()
    assert pruner.phase == Phase.FINISHED
    assert set(pruner.gate.tolist()) == {0.0, 1.0}
    assert pruner.method.calls == [1, 2, 3, 'finish']


def test_the_gradient_is_that_of_the_gate(model, images):
    """By finite differences of the loss, in float64."""
    model.double()
    images = images.double()
    pruner = attach(model, images, method=Half())
    pruner.begin({'flops': 0.5}, 9)
    model(images).square().mean().backward()
    pruner.step(loss_scale=1.0)
    with torch.no_grad():
        pruner.gate.fill_(1)
        for channel in (0, 9, 25):
            losses = []
            for shift in (-1e-3, 1e-3):
                pruner.gate[channel] = 1 + shift
                losses.append(model(images).square().mean())
            pruner.gate[channel] = 1
            slope = (losses[1] - losses[0]) / 2e-3
            found = pruner.method.seen[channel].double()
            torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-6)


def test_its_buffers_are_saved_and_taken_over(make, images):
    first, second, third = make(), make(), make()
    for network in (first, second, third):
        attach(network, images, method=Half())
    first.pruner.method.seen.uniform_()
    second.load_state_dict(first.state_dict())
    third.pruner.take_over(first.pruner)
    for network in (second, third):
        assert torch.equal(
            network.pruner.method.seen, first.pruner.method.seen
        )


def test_a_name_is_taken_once():
    register_method('test_half')(Half)
    assert METHODS.build('test_half').uses_gradient
    with pytest.raises(PruningError, match='already registered'):
        register_method('test_half')


class Odd(Half):
    """Returns in one of its calls what is no number per channel."""

    def __init__(self, call, returned):
        super().__init__()
        self.call, self.returned = call, returned

    def begin(self, pruner):
        return self.answer('begin', super().begin(pruner))

    def step(self, pruner):
        return self.answer('step', super().step(pruner))

    def ranking(self, pruner):
        return self.answer('ranking', super().ranking(pruner))

    def answer(self, call, usual):
        return self.returned if call == self.call else usual


@pytest.mark.parametrize('call', ['begin', 'step', 'ranking'])
@pytest.mark.parametrize('returned', [None, torch.ones(1), [1.0] * 36])
def test_an_answer_that_is_no_number_per_channel(
    model, images, call, returned
):
    pruner = attach(model, images, method=Odd(call, returned))

    def prune():
        pruner.begin({'flops': 0.5}, 9)
        pruner.step()
        pruner.finish()

    with pytest.raises(
        PruningError, match=rf'{call} of method Odd: exp.* shape \(36,\)'
    ):
        prune()
    assert pruner.gate.isfinite().all()
    assert pruner.phase != Phase.FINISHED
