# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a step of the pruning phase asks of a GPU, counted without one.

Each operator is started on its own, and before an answer a GPU does all that
it was given: hundreds of small ones and dozens of answers made a step three
times as long.
"""

import copy

import pytest
import torch
from every_method import EVERY_METHOD
from pretended_gpu import DEVICE, Watch
from torch import nn

from mmlapp.core import attach

STEPS = 6
# One for what cannot be used, and one for what a search needs to know; more
# where a cost or protection asks for the signs of what it gets.
ANSWERS = {
    'ranking in steps': 3,
    'ranking once': 3,
    'one cycle': 4,
    'psap': 6,
    'lapp with protection': 6,
    'admm': 21,  # in its few updates alone, one of whether weights moved
}
# Of the pruner alone; some scores and methods look at each layer at length.
BY_LAYER = 1.5
FIXED = 250


class Block(nn.Module):
    """Two layers with norms beside a connection."""

    def __init__(self):
        super().__init__()
        self.a, self.m = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.n = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        return (x + self.n(self.b(self.m(self.a(x)).relu()))).relu()


def network(blocks):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        *(Block() for _ in range(blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


@pytest.fixture
def images():
    return torch.randn(2, 3, 4, 4)


def attached(images, blocks=1, **arguments):
    model = network(blocks)
    pruner = attach(model, images[:1], **arguments)
    if not pruner.scorer.prepared:
        pruner.prepare(model, [lambda: model(images).square().mean()])
    return model


def phase(model, images, watch=None):
    """Trains; returns gates after every step, and what the last one asked."""
    pruner, gates = model.pruner, []
    asked = {}
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    pruner.begin({'flops': 0.6}, STEPS)
    for _ in range(STEPS - 1):
        for part, call in (
            ('network', lambda: _learn(model, images, optimizer)),
            ('pruner', pruner.step),
            ('report', pruner.ratios),
        ):
            before = (0, 0) if watch is None else watch.counts()
            call()
            after = (0, 0) if watch is None else watch.counts()
            asked[part] = after[0] - before[0], after[1] - before[1]
        gates.append(pruner.gate.detach().cpu().clone())
    return torch.stack(gates), asked


def _learn(model, images, optimizer):
    optimizer.zero_grad()
    loss = model(images).square().mean() + model.pruner.loss()
    loss.backward()
    optimizer.step()


def far(model, images):
    """The same on the device."""
    with Watch() as watch:
        found = phase(model.to(DEVICE), images.to(DEVICE), watch)
    return found


@pytest.mark.parametrize('name', EVERY_METHOD)
def test_the_device_decides_nothing_and_answers_seldom(images, name):
    model = attached(images, **EVERY_METHOD[name])
    expected, _ = phase(copy.deepcopy(model), images)
    found, asked = far(model, images)
    assert torch.equal(found, expected)
    assert (found < 1).any()
    assert asked['pruner'][1] <= ANSWERS.get(name, 2)
    assert asked['network'][1] == 0
    assert asked['report'][1] == 1


@pytest.mark.parametrize(
    ('method', 'normalisation'), [('lapp', 'rank'), ('uniform', 'std')]
)
def test_operators_of_a_step_follow_the_number_of_layers(
    images, method, normalisation
):
    """Not that of groups, each of which was worked on for itself."""
    counts = []
    for blocks in (1, 5):
        model = attached(
            images, blocks, method=method, normalisation=normalisation
        )
        counts.append(far(model, images)[1]['pruner'][0])
    layers = 1 + 2 * 5
    assert counts[1] - counts[0] <= BY_LAYER * 8
    assert counts[1] <= FIXED + BY_LAYER * layers


def test_operators_of_masks(images):
    """A product, two products to learn, and two that add that up: a mask."""
    added = []
    for blocks in (1, 5):
        masked = far(attached(images, blocks), images)[1]['network'][0]
        plain = network(blocks)
        with Watch() as watch:
            plain.to(DEVICE)
            optimizer = torch.optim.SGD(plain.parameters(), 0.05)
            for _ in range(2):  # the first makes what the second adds to
                before = watch.counts()[0]
                plain(images.to(DEVICE)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        added.append(masked - watch.counts()[0] + before)
    # Of scale and shift of both norms of a block.
    assert added[1] - added[0] <= 5 * 4 * 4


def test_devices_do_not_mix():
    near = torch.ones(3)
    with Watch() as watch:
        there = near.to(DEVICE)
        with pytest.raises(AssertionError, match='add on two devices'):
            there + near
        assert watch.counts() == (1, 0)
        assert float((there * 2).sum()) == 6
        assert there[there > 0].shape == (3,)
    assert watch.answers == ['_local_scalar_dense', 'index']
