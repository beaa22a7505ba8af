# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What every method must do, whatever decides."""

import copy
import operator

import pytest
import ranks
import torch
from every_method import EVERY_METHOD, type_of
from pruning_steps import kept_by_group
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmlapp.core import Phase, attach, narrow
from mmlapp.core.methods import METHODS

STEPS, TARGET = 10, 0.55
every_method = pytest.mark.parametrize('name', EVERY_METHOD)
every_network = pytest.mark.parametrize('network', ['chain', 'residual'])


@pytest.fixture
def networks(make, normed, images):
    """By name: what makes a network, and its images."""
    return {'chain': (make, images), 'residual': (normed, images.double())}


def begin(model, images, target=TARGET, steps=STEPS):
    """A phase, with calibration images for those that want some."""
    model.pruner.prepare(model, [lambda: model(images)])
    model.pruner.begin({'flops': target}, steps)


def run(model, images, steps, seed=0):
    """Steps on random images and targets, with weight decay."""
    dice = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        moved = images + torch.rand(images.shape, generator=dice).to(images)
        loss = (model(moved) - 1).square().mean() + model.pruner.loss()
        loss.backward()
        optimizer.step()
        model.pruner.step()


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_the_table_has_every_method():
    own = {n for n in METHODS if METHODS[n].__module__.startswith('mmlapp.')}
    assert {type_of(entry) for entry in EVERY_METHOD.values()} == own


@every_method
@every_network
def test_exact_budget_and_equal_outputs_when_narrow(networks, network, name):
    make, images = networks[network]
    model = make()
    pruner = attach(model, images, **EVERY_METHOD[name])
    begin(model, images)
    run(model, images, STEPS)
    assert pruner.phase == Phase.FINISHED
    assert set(pruner.gate.tolist()) == {0, 1}
    # Widths are 8 to 16: a whole channel is a few hundredths.
    assert TARGET - 0.05 < pruner.ratios()['flops'] <= TARGET
    model.eval()
    with torch.no_grad():
        expected = model(images)
        narrowed = narrow(copy.deepcopy(model), pruner.plan())
        torch.testing.assert_close(narrowed(images), expected)


@pytest.fixture
def gated(net, conv):
    """A norm of pooled features, which says nothing of one channel."""

    def forward(m, x):
        y = m.first(m.a(x)).relu()
        pooled = m.norm(m.b(y.mean((2, 3), keepdim=True)))
        return m.d(y * m.c(pooled.relu()).sigmoid())

    return net(
        forward,
        a=conv(3, 8),
        first=nn.BatchNorm2d(8),
        b=conv(8, 6, 1),
        norm=nn.GroupNorm(1, 6),
        c=conv(6, 8, 1),
        d=conv(8, 4),
    )


@every_method
def test_no_method_leaves_less_than_runs(gated, images, name):
    """Down to the smallest network that there is."""
    images = images.double()
    pruner = attach(gated, images, **EVERY_METHOD[name])
    floors = dict(zip(pruner.keep_ratios(), pruner.floors, strict=True))
    assert floors['b'] == 2
    least = [torch.arange(g.size) < floors[g.name] for g in pruner.groups]
    pruner.set_mask(torch.cat(least))
    target = pruner.ratios()['flops'] + 1e-6
    pruner.reset()
    begin(gated, images, target)
    for step in range(STEPS):
        run(gated, images, 1, step)
        kept = kept_by_group(pruner)
        assert all(map(operator.ge, kept, floors.values()))
    assert kept == list(floors.values())
    small = narrow(gated, pruner.plan()).eval()
    assert small.norm.num_channels == 2
    # Of a single image, for which the norm of one channel raises an error.
    outputs = [small(x[None]) for x in images[:2]]
    assert not torch.allclose(*outputs)


@every_method
def test_a_phase_may_be_led_in_inference_mode(make, images, name):
    """By a trainer that evaluates around it; only training learns."""
    plain, led = make(), make()
    led.load_state_dict(plain.state_dict())
    for network in (plain, led):
        attach(network, images, **EVERY_METHOD[name])
    for network in (plain, led):
        with torch.inference_mode(network is led):
            begin(network, images)
        optimizer = torch.optim.SGD(network.parameters(), 0.05)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (network(images) - 1).square().mean()
            (loss + network.pruner.loss()).backward()
            optimizer.step()
            with torch.inference_mode(network is led):
                network.pruner.step()
    assert led.pruner.phase == Phase.FINISHED
    assert_equal(state_of(led), state_of(plain))


# How a network runs its parts.
WAYS = {
    'plain': lambda part, x: part(x),
    'checkpointed': lambda part, x: checkpoint(part, x, use_reentrant=False),
    'reentrant': lambda part, x: checkpoint(part, x, use_reentrant=True),
}


@pytest.fixture
def in_parts(net, conv):
    """Runs its parts in the way that it has as an attribute."""

    def forward(m, x):
        return m.last(m.way(m.second, m.way(m.first, x)))

    def part(inputs, outputs):
        norm = nn.BatchNorm2d(outputs)
        return nn.Sequential(conv(inputs, outputs), norm, nn.ReLU())

    model = net(forward, first=part(3, 8), second=part(8, 8), last=conv(8, 4))
    model.way = WAYS['plain']
    return model


def gradients(model, images, way, backwards=1):
    """Of two forwards, by name; that of the gate is among them."""
    model.way = WAYS[way]
    model.zero_grad()
    model.pruner.gate.grad = None
    loss = sum((model(x) - 1).square().mean() for x in (images, 2 * images))
    for _ in range(backwards - 1):
        (loss / backwards).backward(retain_graph=True)
    (loss / backwards + model.pruner.loss()).backward()
    found = {k: p.grad for k, p in model.named_parameters()}
    return {**found, 'gate': model.pruner.gate.grad}


@every_method
def test_how_a_forward_is_led_changes_no_gradient(in_parts, image, name):
    """Parts that run again, forwards before a backward, two backwards."""
    attach(in_parts, image, **EVERY_METHOD[name])
    begin(in_parts, image)
    run(in_parts, image, 4)
    image.requires_grad_()
    expected = gradients(in_parts, image, 'plain')
    assert (expected['gate'] is not None) == in_parts.pruner.uses_gradient
    for way in WAYS:
        for backwards in (1, 2):
            found = gradients(in_parts, image, way, backwards)
            torch.testing.assert_close(found, expected)


@every_method
def test_a_phase_that_is_resumed_goes_on_bit_for_bit(make, images, name):
    whole, part, resumed = make(), make(), make()
    part.load_state_dict(whole.state_dict())
    for network in (whole, part, resumed):
        attach(network, images, **EVERY_METHOD[name])
    for network in (whole, part):
        begin(network, images)
        run(network, images, 5)
    resumed.load_state_dict(state_of(part))
    for network in (whole, resumed):
        run(network, images, STEPS - 5, seed=1)
    assert resumed.pruner.phase == Phase.FINISHED
    assert_equal(state_of(resumed), state_of(whole))


@every_method
def test_a_second_phase_is_like_the_first(make, images, name):
    """What a reset forgets does not decide."""
    once, twice = make(), make()
    for network in (once, twice):
        attach(network, images, **EVERY_METHOD[name])
    begin(twice, images, 0.9, 7)
    run(twice, images, 4)
    twice.pruner.reset()
    twice.load_state_dict(
        {k: v for k, v in once.state_dict().items() if 'pruner' not in k},
        strict=False,
    )
    for network in (once, twice):
        begin(network, images)
        run(network, images, STEPS)
    assert torch.equal(once.pruner.mask, twice.pruner.mask)


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """States of the pruners of two processes, step by step."""
    return ranks.states_of_both(tmp_path_factory.mktemp('ranks'), EVERY_METHOD)


@pytest.mark.slow
@every_method
def test_two_processes_decide_alike(processes, name):
    """Bit by bit, though they see different images."""
    one, other = (found[name] for found in processes)
    assert len(one) > 5
    for state, twin in zip(one, other, strict=True):
        assert_equal(state, twin)
    assert not one[-1]['gate'].all()
