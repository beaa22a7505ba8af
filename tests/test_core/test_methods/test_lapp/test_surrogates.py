# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.core.methods.lapp.surrogates import SURROGATES

NAMES = list(SURROGATES)


@pytest.fixture(params=NAMES)
def surrogate(request):
    return SURROGATES[request.param](width=0.3)


def grid():
    """Differences of score and threshold, away from the corners."""
    return torch.linspace(-1, 1, 400, dtype=torch.float64) + 1e-4


def test_published_surrogates_are_there():
    assert set(NAMES) == {'sigmoid', 'longtail', 'clipped'}


def test_slope_is_the_derivative_of_the_relaxed_step(surrogate):
    x = grid().requires_grad_()
    (derivative,) = torch.autograd.grad(surrogate.relaxed(x).sum(), x)
    torch.testing.assert_close(surrogate.slope(x), derivative)


def test_relaxed_is_a_step_from_zero_to_one(surrogate):
    x = torch.tensor([-100.0, 0.0, 100.0])
    torch.testing.assert_close(
        surrogate.relaxed(x), torch.tensor([0.0, 0.5, 1.0])
    )
    steps = surrogate.relaxed(grid()).diff()
    assert (steps >= 0).all()


def test_slope_integrates_to_one(surrogate):
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    area = torch.trapezoid(surrogate.slope(x), x)
    assert float(area) == pytest.approx(1, abs=1e-3)


def test_slope_is_symmetric_and_largest_at_zero(surrogate):
    x = grid()
    torch.testing.assert_close(surrogate.slope(x), surrogate.slope(-x))
    assert (surrogate.slope(x) <= surrogate.slope(x * 0)).all()


@pytest.mark.parametrize('name', NAMES)
def test_a_wider_surrogate_is_the_same_stretched(name):
    narrow, wide = SURROGATES[name](0.2), SURROGATES[name](0.6)
    x = grid()
    torch.testing.assert_close(narrow.relaxed(x), wide.relaxed(3 * x))
    torch.testing.assert_close(narrow.slope(x), 3 * wide.slope(3 * x))


def test_sigmoid_at_known_points():
    slope = SURROGATES['sigmoid'](0.5).slope(torch.tensor([0.0]))
    assert slope.item() == pytest.approx(0.25 / 0.5)


def test_long_tail_has_the_shape_of_the_paper():
    """Dynamic Sparse Training: 2 - 4|x| to 0.4, 0.4 to 1, then nothing."""
    slope = SURROGATES['longtail'](1.0).slope
    published = torch.tensor([2.0, 1.2, 0.4, 0.4, 0.4, 0.0])
    found = slope(torch.tensor([0.0, 0.2, 0.4, 0.7, 1.0, 1.1]))
    torch.testing.assert_close(found / found[0], published / published[0])


@pytest.mark.parametrize('width', [0, -1, float('nan')])
@pytest.mark.parametrize('name', NAMES)
def test_width_must_be_positive(name, width):
    with pytest.raises(PruningError, match=r'width=.*above 0'):
        SURROGATES[name](width)
