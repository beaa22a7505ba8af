# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import ScoreContext
from mmlapp.core.score import SCORES


@pytest.fixture
def filters():
    return torch.randn(6, 4)


@pytest.mark.parametrize('power', [1, 2])
def test_norms_of_filters(filters, power):
    expected = [
        sum(abs(w) ** power for w in row) ** (1 / power)
        for row in filters.tolist()
    ]
    found = SCORES.build(f'l{power}')(ScoreContext(filters))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_scale_of_the_norm(filters):
    scale = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5, -0.5])
    found = SCORES.build('bn_scale')(ScoreContext(filters, scale=scale))
    assert found.tolist() == [1, 2, 0, 3, 0.5, 0.5]


def test_scale_falls_back_where_no_norm_follows(filters):
    found = SCORES.build('bn_scale')(ScoreContext(filters))
    torch.testing.assert_close(
        found, SCORES.build('l2')(ScoreContext(filters))
    )


def test_geometric_median_by_loops(filters):
    rows = filters.tolist()
    expected = [
        sum(
            sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) ** 0.5
            for other in rows
        )
        for row in rows
    ]
    found = SCORES.build('fpgm')(ScoreContext(filters))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_filter_amid_the_others_is_the_least_important():
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]])
    assert SCORES.build('fpgm')(ScoreContext(corners)).argmin() == 4
