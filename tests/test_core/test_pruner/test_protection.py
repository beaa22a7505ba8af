# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels with large gradients are spared by every method."""

import math
from fractions import Fraction

import pytest
import torch
from every_method import EVERY_METHOD
from pruning_steps import train

from mmlapp.core import Method, Phase, PruningError, attach
from mmlapp.core.pruner.protection import lifted, protected

SIZES = [8, 12, 16]


@pytest.mark.parametrize('percent', [1, 7, 29, 50, 58, 99])
def test_shares_are_rounded_down_exactly(percent):
    """Against whole numbers: 0.29 of 100 channels are 29."""
    for width in (1, 3, 50, 100):
        harm = torch.rand(width) + 1
        expected = math.floor(Fraction(percent, 100) * width)
        found = protected(harm, [width], percent / 100)
        assert found.sum() == expected
        if 0 < expected < width:
            assert harm[found].min() > harm[~found].max()


def test_what_has_no_gradient_is_not_spared():
    harm = torch.tensor([0.0, 0.0, 2.0, 0.0])
    assert protected(harm, [4], 0.5).tolist() == [False, False, True, False]


def test_orders_are_kept_inside():
    """Against a sort by a tuple."""
    ranking = torch.randn(50)
    one, other = torch.rand(2, 50) < 0.4
    keys = list(
        zip(other.tolist(), one.tolist(), ranking.tolist(), strict=True)
    )
    expected = sorted(range(50), key=lambda i: keys[i])
    assert lifted(ranking, one, other).argsort().tolist() == expected


@pytest.mark.parametrize('name', EVERY_METHOD)
def test_every_method_spares_them_and_costs_no_more(make, images, name):
    """What it would have cost is what the method decides about."""
    arguments = {**EVERY_METHOD[name], 'protect': 0.25}
    network = make()
    pruner = attach(network, images, **arguments)
    decided, step = [], pruner.method.step
    pruner.method.step = lambda p: decided.append(step(p)) or decided[-1]
    pruner.prepare(network, [lambda: network(images)])
    pruner.begin({'flops': 0.6}, 12)
    for _ in range(11):
        train(network, images, 1)
        harm = pruner.harm.mean()
        sizes = pruner.sizes
        for part, mask in zip(
            harm.split(sizes), pruner.mask.split(sizes), strict=True
        ):
            assert mask[part.topk(len(part) // 4).indices].all()
        cost, spent = pruner.cost('flops'), pruner.decided
        assert cost(spent) <= cost(decided[-1])
    train(network, images, 1)
    assert pruner.phase == Phase.FINISHED
    assert pruner.mask[pruner.protected].all()
    assert 0.5 < pruner.ratios()['flops'] <= 0.6


class Fixed(Method):
    """Keeps the last channels of every group."""

    def setup(self, pruner):
        self.register_buffer('kept', torch.ones(36))

    def step(self, pruner):
        kept = [torch.arange(size) >= size // 2 for size in SIZES]
        self.kept.copy_(torch.cat(kept))
        return self.kept.clone()

    def ranking(self, pruner):
        return self.kept


def test_a_removed_channel_with_a_large_gradient_comes_back(model, images):
    pruner = attach(model, images, method=Fixed(), protect=0.1)
    pruner.begin({'flops': 0.6}, 10)
    pruner.step()
    assert not pruner.mask[20]
    # The gate of a removed channel has a gradient all the same.
    for _ in range(3):
        pruner.gate.grad = torch.zeros(36)
        pruner.gate.grad[20] = 1
        pruner.step()
        assert pruner.mask[20]
        # For one of the kept ones of lowest rank, of any group.
        assert pruner.mask.sum() < 18
    pruner.finish()
    assert pruner.mask[20]


class Contrary(Fixed):
    """Ranks first what it removes."""

    def ranking(self, pruner):
        return -self.kept


def test_for_one_that_comes_back_one_that_is_kept_goes(model, images):
    """And none that is neither kept nor spared comes in."""
    pruner = attach(model, images, method=Contrary(), protect=0.1)
    pruner.begin({'flops': 0.6}, 10)
    pruner.gate.grad = torch.zeros(36)
    pruner.gate.grad[20] = 1
    pruner.step()
    kept = pruner.method.kept.bool()
    kept[20] = True
    assert not (pruner.mask & ~kept).any()
    assert pruner.mask[20]


def test_of_too_many_the_budget_keeps_the_best(model, images):
    pruner = attach(model, images, method='uniform', protect=0.9)
    pruner.begin({'flops': 0.3}, 8)
    train(model, images, 8)
    assert pruner.ratios()['flops'] <= 0.3
    assert (pruner.protected & ~pruner.mask).any()
    for part, mask, scores in zip(
        pruner.protected.split(SIZES),
        pruner.mask.split(SIZES),
        pruner.scores.split(SIZES),
        strict=True,
    ):
        if (part & ~mask).any() and (part & mask).any():
            assert scores[part & mask].min() > scores[part & ~mask].max()


def test_without_it_nothing_is_asked_and_nothing_kept(model, images):
    pruner = attach(model, images, method='uniform')
    pruner.begin({'flops': 0.5}, 4)
    assert pruner.harm is None
    assert not pruner.gate.requires_grad
    assert not pruner.protected.any()


class Soft(Fixed):
    """Sets gates between 0 and 1 itself."""

    def step(self, pruner):
        return torch.full_like(pruner.gate, 0.5)


def test_gates_in_between_cannot_be_spared(model, images):
    pruner = attach(model, images, method=Soft(), protect=0.3)
    pruner.begin({'flops': 0.5}, 4)
    with pytest.raises(PruningError, match=r'protect=0\.3: the method sets'):
        pruner.step()
    assert pruner.progress.done == 0


@pytest.mark.parametrize('share', [-0.1, 1, 1.0, 1.5, True, '0.3', None])
def test_a_share_out_of_range(model, images, share):
    with pytest.raises(PruningError, match=f'protect={share!r}: '):
        attach(model, images, protect=share)
    assert not hasattr(model, 'pruner')
