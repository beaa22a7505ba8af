# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What code compares numbers of channels with, and how that comes out."""

import math
import operator
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core.trace import trace
from mmlapp.core.trace.counted import Source, Sum, Width
from mmlapp.core.trace.thresholds import MIRRORED, least_value

NAMES = list(MIRRORED)


@pytest.mark.parametrize('name', NAMES)
def test_the_least_number_that_compares_alike(name):
    """Counted down one by one from the number to the first that does not."""
    compare = getattr(operator, name)
    for value, other in product(range(1, 9), [-1, 0, 1, 2, 3.5, 5, 8, 9]):
        outcome, alike = compare(value, other), value
        while alike and compare(alike - 1, other) == outcome:
            alike -= 1
        found = least_value(name, value, other) or 0
        if other == value and name in ('eq', 'ne'):
            assert alike == value  # any other number differs: no threshold
            assert found == 0
        elif name in ('eq', 'ne') and other == 3.5:
            assert alike == 0  # no number equals it; what is said is more
            assert found in (0, 4)
        else:
            assert max(found, 0) == alike


def test_what_no_number_reaches():
    assert least_value('gt', 8, -math.inf) is None
    assert least_value('lt', 8, math.inf) is None
    assert least_value('lt', 8, math.nan) is None


@pytest.mark.parametrize('name', NAMES)
def test_numbers_that_count_compare_as_numbers_do(name):
    compare = getattr(operator, name)
    source = Source(None, lambda: torch.arange(5), compared=[])
    width = Width(5, source)
    for a in (width, Sum(5, ((width, 1),))):
        others = [4, 5, 6, 4.5, math.nan, Width(5, source), 'five', None]
        for b in others:
            outcomes = []
            for pair in ((a, b), (b, a), (5, b), (b, 5)):
                try:
                    outcomes.append(compare(*pair))
                except TypeError:
                    outcomes.append(TypeError)
            assert outcomes[:2] == outcomes[2:]
    assert {5: 'found'}[width] == {width: 'found'}[5] == 'found'


# What branches, and the least channels of 12 for which it goes on.
BRANCHES = {
    'gt': (lambda m, x: x.shape[1] > 3, 4),
    'ge': (lambda m, x: x.shape[1] >= 3, 3),
    'lt': (lambda m, x: x.shape[1] < 3, 3),
    'le': (lambda m, x: x.shape[1] <= 3, 4),
    'eq': (lambda m, x: x.shape[1] == 3, 4),
    'ne': (lambda m, x: x.shape[1] != 3, 4),
    'from the other side': (lambda m, x: operator.lt(3, x.shape[1]), 4),
    'often': (lambda m, x: [x.shape[1] > 3 for _ in range(9)], 4),
    'size': (lambda m, x: x.size(1) > 3, 4),
    'all sizes': (lambda m, x: x.size()[1] > 3, 4),
    'one of several': (lambda m, x: x.shape[1] in (3, 3), 4),
    'the smaller one': (lambda m, x: min(x.shape[1], 3), 4),
    'the larger one': (lambda m, x: max(3, x.shape[1]), 4),
    'a fraction': (lambda m, x: x.shape[1] > 3.5, 4),
    # 2 c > 7 from 4 on, c // 3 > 1 (12 by thirds: 6) and c + c >= 9.
    'a multiple': (lambda m, x: 2 * x.shape[1] > 7, 8),
    'a part': (lambda m, x: x.shape[1] // 3 > 1, 6),
    'a sum': (lambda m, x: x.shape[1] + x.shape[1] >= 9, 9),
    'one more': (lambda m, x: x.shape[1] + 1 > 4, 4),
    'one more before': (lambda m, x: 1 + x.shape[1] > 4, 4),
    'some less': (lambda m, x: x.shape[1] - 2 >= 3, 5),
    'what is missing': (lambda m, x: 20 - x.shape[1] < 17, 4),
    # 12 // 5 is 2, of 5 to 9 it is 1; by eights, rounded up, 9 have 2.
    'a part with a rest': (lambda m, x: x.shape[1] // 5 > 0, 5),
    'just that part': (lambda m, x: x.shape[1] // 5 == 2, 10),
    'rounded up': (lambda m, x: -(-x.shape[1] // 8) > 1, 9),
    'in steps': (lambda m, x: (x.shape[1] - 1) // 4 * 2 + 1 > 3, 9),
    'of half of them': (lambda m, x: x.shape[1] // 2 + 1 > 3, 6),
    'of a sum': (lambda m, x: x.shape[1] + x.shape[1] - 1 >= 8, 9),
    'half of them': (lambda m, x: x.shape[1] / 2 > 2.5, 6),
    'three quarters': (lambda m, x: x.shape[1] * 0.75 >= 3, 4),
    'what they divide': (lambda m, x: 24 / x.shape[1] <= 5, 5),
    'rounded': (lambda m, x: math.floor(x.shape[1] / 5) == 2, 10),
    'whether a part': (lambda m, x: bool(x.shape[1] // 5), 5),
    'whether a quarter': (lambda m, x: bool(x.shape[1] // 4), 4),
    'whether more than two': (lambda m, x: 1 if x.shape[1] - 2 else 0, 3),
    'at most so many': (lambda m, x: min(x.shape[1] // 5, 1), 10),
    'more than none': (lambda m, x: x.shape[1] + 1 > 0, None),
    'an attribute': (lambda m, x: x.shape[1] > m.limit, 4),
    'to an attribute': (lambda m, x: m.limit < x.shape[1], 4),
    'at its width': (lambda m, x: x.shape[1] == 12, None),
    'never': (lambda m, x: x.shape[1] <= 12, None),
    'any': (lambda m, x: x.shape[1] > 0, None),
    'not channels': (lambda m, x: x.shape[2] > 3, None),
    'without end': (lambda m, x: x.shape[1] < float('inf'), None),
    'torch': (lambda m, x: functional.group_norm(x, 2), None),
}


class Branching(nn.Module):
    def __init__(self, code):
        super().__init__()
        self.a, self.code = nn.Conv2d(3, 12, 1), code
        self.b, self.limit = nn.Conv2d(12, 5, 1), 3

    def forward(self, x):
        y = self.a(x)
        self.code(self, y)
        return self.b(y), self.limit


@pytest.mark.parametrize('name', BRANCHES)
def test_comparisons_of_the_network_are_noted(name):
    code, least = BRANCHES[name]
    model = Branching(code)
    found = trace(model, lambda: model(torch.rand(2, 3, 4, 4))[0]).thresholds
    assert [t.least for t in found] == ([] if least is None else [least])
    for threshold in found:
        # Every channel as often as the number counts it.
        often = 2 if name in ('a multiple', 'a sum', 'of a sum') else 1
        counts = threshold.ids.unique(return_counts=True)[1]
        assert counts.tolist() == [often] * 12
        assert len(threshold.against) == (3 if 'attribute' in name else 0)
