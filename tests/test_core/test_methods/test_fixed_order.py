# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Uniform and random rates, down to the budget in steps."""

import pytest
import torch

from mmlapp.core import PruningError, attach


def run(pruner, steps=10, target=0.5):
    pruner.begin({'flops': target}, steps)
    shares = []
    for _ in range(steps):
        pruner.step()
        shares.append(pruner.ratios()['flops'])
    return shares


@pytest.mark.parametrize('method', ['uniform', 'random'])
def test_the_cost_follows_the_schedule(model, images, method):
    pruner = attach(model, images, method=method)
    pruner.begin({'flops': 0.5}, 10)
    for _ in range(9):
        target = pruner.targets()['flops']
        pruner.step()
        assert target - 0.12 < pruner.ratios()['flops'] <= target
    pruner.step()
    assert 0.48 < pruner.ratios()['flops'] <= 0.5


@pytest.mark.parametrize('method', ['uniform', 'random'])
def test_masks_ask_for_no_gradient(model, images, method):
    pruner = attach(model, images, method=method)
    pruner.begin({'flops': 0.5}, 4)
    model(images).sum().backward()
    assert pruner.gate.grad is None


def test_uniform_keeps_the_same_share_everywhere(model, images):
    pruner = attach(model, images, method='uniform')
    run(pruner)
    shares = torch.tensor(list(pruner.keep_ratios().values()))
    sizes = torch.tensor(pruner.sizes)
    spread = (shares - shares.mean()).abs()
    assert (spread <= 1 / sizes).all()
    assert shares.max() < 0.9


def test_uniform_keeps_the_highest_scores(model, images):
    pruner = attach(model, images, method='uniform')
    run(pruner)
    for scores, mask in zip(
        pruner.scores.split(pruner.sizes),
        pruner.mask.split(pruner.sizes),
        strict=True,
    ):
        assert scores[mask].min() > scores[~mask].max()


def test_random_rates_differ_and_have_a_seed(make, images):
    shares = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        pruner = attach(
            make(), images, method=dict(type='random', spread=1.0, seed=seed)
        )
        run(pruner)
        shares.append(list(pruner.keep_ratios().values()))
    assert shares[0] == shares[1] != shares[2]
    assert max(shares[0]) - min(shares[0]) > 0.2


def test_no_spread_is_uniform(make, images):
    masks = []
    for method in ('uniform', dict(type='random', spread=0)):
        torch.manual_seed(5)
        pruner = attach(make(), images, method=method)
        run(pruner)
        masks.append(pruner.mask)
    assert torch.equal(*masks)


def test_a_negative_spread(model, images):
    with pytest.raises(PruningError, match='random spread=-1'):
        attach(model, images, method=dict(type='random', spread=-1))
