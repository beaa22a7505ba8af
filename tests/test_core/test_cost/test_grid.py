# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
import torch
from torch.nn import functional

from mmlapp.core import analyse
from mmlapp.core.cost.grid import GridCost, GridTerm, isotonic
from mmlapp.core.cost.multilinear import Factor


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def groups(model, images):
    """Groups of the channels of a network; the first two, of 8 and 12."""
    return analyse(model, images).groups


def gate_of(groups, *kept):
    """A gate that keeps so much of the first groups, spread evenly."""
    parts = []
    for g, group in enumerate(groups.prunable):
        share = kept[g] / group.size if g < len(kept) else 1.0
        parts.append(torch.full((group.size,), share, dtype=torch.float64))
    return torch.cat(parts)


def term(axes, values, name='layer'):
    """A layer whose rows follow the first group, its columns the second."""
    factors = Factor(0.0, {0: 1.0}), Factor(0.0, {1: 1.0})
    return GridTerm(name, factors, axes, values)


ROWS, COLUMNS = doubles(2, 4, 8), doubles(1, 3, 4, 6, 12)


def test_bilinear_between_the_widths_as_torch_interpolates(groups):
    """An evenly spaced grid is an image for ``grid_sample``."""
    rows, columns = doubles(2, 4, 6, 8), doubles(3, 6, 9, 12)
    values = torch.rand(4, 4, dtype=torch.float64).cumsum(0).cumsum(1)
    cost = GridCost([term((rows, columns), values)], groups, 1.0)
    for row, column in torch.rand(20, 2).tolist():
        place = doubles(2 * column - 1, 2 * row - 1).view(1, 1, 1, 2)
        expected = functional.grid_sample(
            values[None, None], place, align_corners=True
        )
        gate = gate_of(groups, 2 + 6 * row, 3 + 9 * column)
        assert float(cost(gate)) == pytest.approx(float(expected))


def test_known_widths_are_exact(groups):
    values = torch.rand(3, 5, dtype=torch.float64).cumsum(0).cumsum(1)
    cost = GridCost([term((ROWS, COLUMNS), values)], groups, 1.0)
    for i, j in itertools.product(range(3), range(5)):
        gate = gate_of(groups, float(ROWS[i]), float(COLUMNS[j]))
        assert float(cost(gate)) == pytest.approx(float(values[i, j]))


def test_below_the_least_width_the_cost_stays(groups):
    values = doubles(*[[i + j for j in range(5)] for i in range(3)])
    cost = GridCost([term((ROWS, COLUMNS), values)], groups, 1.0)
    assert float(cost(gate_of(groups, 0, 12))) == 4
    assert float(cost(gate_of(groups, 2, 0))) == 0


def test_the_gradient_is_that_of_the_cost(groups):
    values = torch.rand(3, 5, dtype=torch.float64).cumsum(0).cumsum(1)
    short = term((doubles(8), COLUMNS), values[:1], 'other')
    terms = [term((ROWS, COLUMNS), values), short]
    cost = GridCost(terms, groups, 1.0)
    gate = torch.rand(len(gate_of(groups)), dtype=torch.float64)
    torch.autograd.gradcheck(cost, gate.requires_grad_())


def test_with_all_channels_the_gradient_is_what_removal_saves(groups):
    """Not zero at the last width: methods begin there."""
    values = doubles(*[[i * j for j in COLUMNS] for i in ROWS])
    cost = GridCost([term((ROWS, COLUMNS), values)], groups, 1.0)
    gate = gate_of(groups).requires_grad_()
    (found,) = torch.autograd.grad(cost(gate), gate)
    first, second, *_ = (group.size for group in groups.prunable)
    assert found[:first].tolist() == pytest.approx([12.0] * first)
    assert found[first : first + second].tolist() == pytest.approx(
        [8.0] * second
    )


def test_layers_sum_up(groups):
    values = torch.rand(3, 5, dtype=torch.float64).cumsum(0).cumsum(1)
    axes = ROWS, COLUMNS
    terms = [term(axes, values, name) for name in ('a', 'b', 'a')]
    cost = GridCost(terms, groups, 1.0)
    gate = gate_of(groups, 5, 7)
    found = cost.by_layer(gate)
    assert found['a'] == pytest.approx(2 * found['b'])
    assert sum(found.values()) == pytest.approx(float(cost(gate)))


def test_nothing_to_sum(groups):
    gate = gate_of(groups).requires_grad_()
    total = GridCost([], groups, 1.0)(gate)
    assert total == 0


def test_it_never_falls_when_a_channel_comes_back(groups):
    """What the search for the budget relies on, whatever was measured."""
    values = torch.rand(3, 5, dtype=torch.float64)
    cost = GridCost([term((ROWS, COLUMNS), values)], groups, 1.0)
    found = torch.tensor(
        [
            [float(cost(gate_of(groups, i, j))) for j in range(13)]
            for i in range(9)
        ]
    )
    assert (found.diff(dim=0) >= -1e-12).all()
    assert (found.diff(dim=1) >= -1e-12).all()
    assert found.max() > found.min()


def test_growing_values_stay():
    values = torch.rand(4, 5, dtype=torch.float64).cumsum(0).cumsum(1)
    assert isotonic(values).equal(values)


@pytest.mark.parametrize('seed', range(10))
def test_the_largest_change_is_the_least_possible(seed):
    """Half of the deepest fall between any two ordered values."""
    torch.manual_seed(seed)
    values = torch.rand(3, 4, dtype=torch.float64)
    places = list(itertools.product(range(3), range(4)))
    deepest = max(
        float(values[a] - values[b])
        for a, b in itertools.product(places, places)
        if a[0] <= b[0] and a[1] <= b[1]
    )
    change = (isotonic(values) - values).abs().max()
    assert float(change) == pytest.approx(deepest / 2)
