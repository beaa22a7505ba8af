# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What groups keep in a uniform network, and floors on a device."""

import itertools

import pytest
import torch

from mmlapp.core.methods.budget import Budget
from mmlapp.core.pruner.floors import Floors, uniform_counts
from mmlapp.core.segments import Segments

SIZES = [5, 12, 8]


def cost(kept):
    """Product of neighbours, as of a chain of layers."""
    a, b, c = (part.sum() for part in kept.split(SIZES))
    return a * b + b * c


@pytest.mark.parametrize('limit', [10, 25, 60, 100, 155, 156])
def test_counts_are_those_of_a_common_cut(limit):
    """Against all cuts: of N channels those whose middle is below it."""
    found = uniform_counts(Budget([(cost, limit)]), Segments(SIZES), [1, 1, 1])
    counts = [
        [sum((i + 0.5) / n <= cut for i in range(n)) for n in SIZES]
        for cut in sorted({(i + 0.5) / n for n in SIZES for i in range(n)})
    ]
    # Floors of one channel each, also of those below the cut.
    counts = [[max(k, 1) for k in each] for each in counts]
    fitting = [[a, b, c] for a, b, c in counts if a * b + b * c <= limit]
    # Places of two groups may coincide, of which the first fits alone.
    assert sum(found) >= sum(max(fitting, default=[1, 1, 1]))
    a, b, c = found
    assert a * b + b * c <= limit
    for (m, k), (n, j) in itertools.combinations(
        zip(SIZES, found, strict=True), 2
    ):
        # Shares differ by what rounding makes of one, or a floor is reached.
        assert abs(k / m - j / n) <= 0.5 / m + 0.5 / n + 1e-9 or 1 in (k, j)


def test_floors_are_kept_though_they_exceed_the_budget():
    budget = Budget([(cost, 1)])
    assert uniform_counts(budget, Segments(SIZES), [2, 3, 4]) == [2, 3, 4]


def test_a_device_is_given_its_copy_once():
    floors = Floors({'flops': 0.5}, [3, 1])
    cpu = torch.device('cpu')
    assert floors.on(cpu).tolist() == [3, 1]
    assert floors.on(cpu) is floors.on(cpu)
    assert floors.on(torch.device('meta')).is_meta
