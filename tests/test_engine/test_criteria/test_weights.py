# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math
import sys

import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.engine.criteria.weights import SAMPLE, quantiles, weights_of


@pytest.fixture
def normal():
    """Quantiles of the normal distribution: as normal as can be."""
    shares = (torch.arange(4000).double() + 0.5) / 4000
    return math.sqrt(2) * torch.erfinv(2 * shares - 1)


def test_normal_weights_pass_all_tests(normal):
    found = weights_of('layer', 3 * normal.view(40, 100))
    assert (found.layer, found.weights, found.tested) == ('layer', 4000, 4000)
    assert found.std == pytest.approx(3, rel=1e-3)
    for p_value in (found.normality, found.zero_mean, found.symmetry):
        assert p_value > 0.9
    assert abs(found.skewness) < 1e-6
    assert abs(found.excess_kurtosis) < 0.02


def test_shifted_weights_are_normal_and_not_symmetric_around_zero(normal):
    found = weights_of('layer', normal + 0.2)
    assert found.normality > 0.05
    assert found.zero_mean < 1e-6
    assert found.symmetry < 1e-6


def test_uniform_weights_have_the_kurtosis_of_their_kind():
    found = weights_of('layer', torch.linspace(-1, 1, 3000))
    assert found.excess_kurtosis == pytest.approx(-1.2, abs=0.01)
    assert found.normality < 1e-6
    assert found.symmetry > 0.9


def test_of_many_weights_some_are_tested_the_same_every_time():
    weight = torch.randn(SAMPLE + 1)
    first = weights_of('layer', weight)
    assert first.tested == SAMPLE
    assert weights_of('layer', weight) == first


@pytest.mark.parametrize('weight', [torch.ones(50), torch.randn(19)])
def test_what_cannot_be_tested_is_none(weight):
    found = weights_of('layer', weight)
    assert found.normality is None
    assert found.skewness is None
    assert bool(found.quantiles) == bool(weight.std() > 0)


def test_quantiles_of_a_normal_distribution_lie_on_the_line(normal):
    found = quantiles(7 + 2 * normal, points=9)
    # Those of the normal distribution at 1/18, 3/18, ..., by tables.
    expected = [-1.5932, -0.9674, -0.5895, -0.2822, 0]
    assert [x for x, _ in found[:5]] == pytest.approx(expected, abs=1e-4)
    assert [y for _, y in found] == pytest.approx(
        [x for x, _ in found], abs=5e-3
    )


def test_without_scipy_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy', None)
    with pytest.raises(PruningError, match='pip install scipy'):
        weights_of('layer', torch.randn(30))
