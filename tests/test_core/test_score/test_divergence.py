# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Predictions without a channel, against networks that lack it."""

import copy
import math

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, attach, narrow
from mmlapp.core.score import SCORES
from mmlapp.core.score import divergence as divergence_module
from mmlapp.core.score.divergence import log_probabilities


@pytest.fixture
def classifiers(normed, net, conv, randomise):
    """A residual stream with an inner group; a layer with two groups."""

    def joined(m, x):
        y = m.a(x).relu()
        return m.fc(torch.cat([m.b(y[:, :4]), m.c(y[:, 4:])], 1).mean((2, 3)))

    split = net(
        joined,
        a=conv(3, 10),
        b=conv(4, 5),
        c=conv(6, 5),
        fc=nn.Linear(10, 3),
    )
    return {'residual': randomise(normed()), 'split': randomise(split)}


def divergence(masked, dense):
    """Mean over images of sum q log(q / p), number by number."""
    total = 0.0
    for q, p in zip(masked.tolist(), dense.tolist(), strict=True):
        total += sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
    return total / len(dense)


def without(model, channel):
    """The narrow network that lacks one channel."""
    twin = copy.deepcopy(model)
    mask = torch.ones_like(twin.pruner.gate).bool()
    mask[channel] = False
    twin.pruner.set_mask(mask)
    return narrow(twin, twin.pruner.plan())


@pytest.mark.parametrize('name', ['residual', 'split'])
def test_against_networks_without_the_channel(classifiers, name):
    """Inside and outside of the residual stream, and over two batches."""
    model = classifiers[name].eval()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    score = SCORES.build(dict(type='kl_divergence', batches=2))
    pruner = attach(model, images, score=score, normalisation='none')
    batches, told = [lambda: model(images[:2]), lambda: model(images[2:])], []
    score.report = told.append
    pruner.prepare(model, batches)
    # Several channels at a time, up to all of it.
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
    assert 2 < len(told) < len(pruner.gate)
    pruner.begin({'flops': 0.9}, 1)
    assert len(pruner.groups) > 1
    with torch.no_grad():
        dense = model(images).softmax(1)
        expected = [
            divergence(without(model, c)(images).softmax(1), dense)
            for c in range(len(pruner.gate))
        ]
    assert sorted(expected)[len(expected) // 2] > 1e-5
    assert pruner.scores.min() >= 0
    torch.testing.assert_close(
        pruner.scores, torch.tensor(expected), rtol=1e-4, atol=1e-7
    )
    assert (pruner.gate == 1).all()


def of_the_way(model, images, limit, monkeypatch):
    """Scores of channels, and how many forwards of a batch they took."""
    monkeypatch.setattr(divergence_module, 'ON_CPU', limit)
    score = SCORES.build('kl_divergence')
    pruner = attach(model, images, score=score, normalisation='none')
    forwards, hooks = [], len(model._forward_pre_hooks)
    pruner.prepare(model, [lambda: forwards.append(0) or model(images)])
    assert len(model._forward_pre_hooks) == hooks
    assert (pruner.gate == 1).all()
    pruner.begin({'flops': 0.9}, 1)
    return pruner, len(forwards)


def mixing(net, conv):
    """Images of a batch are compared with each other."""

    def forward(m, x):
        y = m.a(x)
        return m.fc((y - y.mean(0)).relu().mean((2, 3)))

    return net(forward, a=conv(3, 6), fc=nn.Linear(6, 3))


def unaware(net, conv):
    """Takes no larger batch."""

    def forward(m, x):
        assert len(x) == 5
        return m.fc(m.a(x).relu().mean((2, 3)))

    return net(forward, a=conv(3, 6), fc=nn.Linear(6, 3))


def over_channels(net, conv):
    """A norm over channels, which sees the living ones alone."""

    def forward(m, x):
        y = m.norm(m.a(x).relu().mean((2, 3)))
        return m.fc(y)

    return net(forward, a=conv(3, 6), norm=nn.LayerNorm(6), fc=nn.Linear(6, 3))


def not_zero(net, conv):
    """Its reader is masked: a removed channel is one half behind sigmoid."""

    def forward(m, x):
        y = m.b(m.a(x).sigmoid())
        return m.fc(m.hidden(y.mean((2, 3))).relu())

    return net(
        forward,
        a=conv(3, 6),
        b=conv(6, 4),
        hidden=nn.Linear(4, 5),
        fc=nn.Linear(5, 3),
    )


@pytest.mark.parametrize(
    ('build', 'saved'),
    [
        ('residual', True),
        ('split', True),
        (not_zero, True),
        (mixing, False),
        (unaware, False),
        (over_channels, False),
    ],
)
def test_lanes_are_brute_force(
    classifiers, net, conv, randomise, build, saved, monkeypatch
):
    """And what does not run in lanes, or says something else, runs alone."""
    if isinstance(build, str):
        model = classifiers[build].eval()
    else:
        model = randomise(build(net, conv)).eval()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    twin = copy.deepcopy(model)
    found, few = of_the_way(model, images, 2**22, monkeypatch)
    expected, many = of_the_way(twin, images, 1, monkeypatch)
    assert many == 1 + len(expected.gate)
    if saved:
        # With all; two of every group alone, and in lanes; all the others.
        assert few == 1 + 2 * len(found.groups) + 2
    else:
        assert few >= many
    torch.testing.assert_close(
        found.scores, expected.scores, rtol=1e-5, atol=1e-9
    )
    assert found.scores.max() > 1e-5


def test_what_fails_leaves_all_channels(classifiers):
    model = classifiers['residual']
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    pruner = attach(model, images, score='kl_divergence')
    calls = []

    def run():
        calls.append(0)
        if len(calls) >= 5:
            raise RuntimeError('out of memory')
        return model(images)

    with pytest.raises(RuntimeError):
        pruner.prepare(model, [run])
    assert (pruner.gate == 1).all()


@pytest.mark.parametrize(
    'returned',
    [
        dict(loss=torch.tensor(1.0)),
        torch.zeros(2, 3, 4, 4),
        [torch.zeros(2, 3), torch.zeros(2, 3)],
        torch.zeros(2, 1),
        None,
    ],
)
def test_what_is_no_classifier_is_named(returned):
    with pytest.raises(PruningError, match=r'kl_divergence: .*the logits of'):
        log_probabilities(returned)


def test_one_tensor_in_a_tuple_will_do():
    found = log_probabilities((torch.tensor([[0.0, math.log(3)]]),))
    torch.testing.assert_close(
        found.exp(), torch.tensor([[0.25, 0.75]]).double()
    )


@pytest.mark.parametrize('value', [0, 1.5, True, None])
def test_a_number_of_batches_out_of_range(value):
    with pytest.raises(PruningError, match=f'divergence batches={value!r}: '):
        SCORES.build(dict(type='kl_divergence', batches=value))
