# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import ScoreContext
from mmlapp.core.score import SCORES


@pytest.fixture
def filters():
    return torch.randn(6, 4)


def test_taylor_is_the_change_of_a_linear_loss(filters):
    """Removing a filter from a linear loss changes it by w . g exactly."""
    gradient = torch.randn(6, 4)

    def loss(weights):
        return (weights * gradient).sum()

    expected = []
    for row in range(6):
        without = filters.clone()
        without[row] = 0
        expected.append((loss(filters) - loss(without)) ** 2)
    found = SCORES.build('taylor')(ScoreContext(filters, gradient))
    torch.testing.assert_close(found, torch.stack(expected))


def test_taylor_before_the_first_gradient(filters):
    assert SCORES.build('taylor')(ScoreContext(filters)).unique().numel() == 1
