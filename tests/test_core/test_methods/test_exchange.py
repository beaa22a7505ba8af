# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Small widths: the numbers of channels against all that there are."""

import itertools
import random

import pytest
import torch

from mmlapp.core.methods.budget import Budget, reachable, snap
from mmlapp.core.methods.exchange import TRIALS, exchange


def random_network(seed):
    """Widths, floors and the terms of a cost, products of widths."""
    dice = random.Random(seed)
    count = dice.randint(2, 4)
    sizes = [dice.randint(4, 16 if count < 4 else 10) for _ in range(count)]
    floors = [dice.randint(0, 2) for _ in sizes]
    terms = [
        (dice.randint(1, 40), dice.choices(range(count), k=dice.randint(1, 2)))
        for _ in range(2 * count)
    ]
    terms += [(dice.randint(1, 9), [i, i + 1]) for i in range(count - 1)]
    return sizes, floors, terms, dice.choice([0.3, 0.4, 0.5, 0.6, 0.7, 0.8])


def total(terms, counts):
    """Cost of numbers of channels, ``[..., groups]`` to ``[...]``."""
    counts = counts.double()
    return sum(factor * counts[..., ends].prod(-1) for factor, ends in terms)


def numbers(size, floor, divisor):
    """What a group may keep: multiples from the floor on, or all."""
    return sorted(
        {min(-(-k // divisor) * divisor, size) for k in range(floor, size + 1)}
    )


@pytest.mark.parametrize('divisor', [1, 2, 4])
@pytest.mark.parametrize('seed', range(25))
def test_no_network_is_nearer_to_the_budget(seed, divisor):
    """Within a hundredth, or the largest of all that fit."""
    sizes, floors, terms, share = random_network(seed)
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    limit = share * float(total(terms, torch.tensor(sizes)))

    def cost(mask):
        return total(terms, torch.stack([p.sum() for p in mask.split(sizes)]))

    margin = torch.rand(len(group))
    if reachable(cost, margin, group, floors, divisor) > limit:
        return
    mask = snap(Budget([(cost, limit)]), margin, group, floors, divisor)
    found = float(cost(mask.double()))
    choices = [
        numbers(s, f, divisor) for s, f in zip(sizes, floors, strict=True)
    ]
    every = total(terms, torch.tensor(list(itertools.product(*choices))))
    assert found <= limit
    assert found >= min(float(every[every <= limit].max()), 0.99 * limit)
    for kept, part, allowed in zip(
        mask.split(sizes), margin.split(sizes), choices, strict=True
    ):
        assert int(kept.sum()) in allowed
        if 0 < kept.sum() < len(kept):
            assert part[kept].min() > part[~kept].max()


def test_the_search_ends():
    """Where nothing fits better among more numbers than can be tried."""
    group = torch.arange(12).repeat_interleave(30)
    mask = torch.zeros(360, dtype=torch.bool)
    seen = []

    def used(tried):
        seen.append(tried)
        # A single step: no entry fits.
        return (
            0.5 if not tried.any() else 0.5 + 0.6 * float(tried.float().sum())
        )

    assert torch.equal(exchange(used, mask, group, [0] * 12, 0.99), mask)
    assert len(seen) <= TRIALS + 30
