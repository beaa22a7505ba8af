# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from scipy import stats

from mmlapp.core.criteria.measures import (
    average_ranks,
    overlaps,
    spearman,
    variation,
)


def test_equal_values_share_their_ranks_as_scipy_says():
    values = torch.randint(0, 9, (50,)).float()
    expected = torch.tensor(stats.rankdata(values.numpy()))
    assert torch.equal(average_ranks(values), expected)


def test_spearman_of_constructed_scores():
    rising = torch.tensor([1.0, 2, 3, 4, 5])
    # Any increasing function of a score ranks alike; ranks 1 2 3 5 4 differ by
    # one in two places: 1 - 6 (1 + 1) / (5 (25 - 1)) = 0.9.
    swapped = torch.tensor([1.0, 2, 3, 5, 4])
    found = spearman(torch.stack([rising, rising.exp(), -rising, swapped]))
    expected = torch.tensor(
        [[1, 1, -1, 0.9], [1, 1, -1, 0.9], [-1, -1, 1, -0.9]]
    )
    assert torch.allclose(found[:3], expected.double())
    assert torch.equal(found, found.T)


def test_spearman_with_ties_is_that_of_scipy():
    scores = torch.randint(0, 6, (3, 40)).float()
    expected = stats.spearmanr(scores.numpy(), axis=1).statistic
    assert torch.allclose(spearman(scores), torch.tensor(expected))


def test_a_score_that_is_the_same_everywhere_correlates_with_nothing():
    found = spearman(torch.tensor([[1.0, 2, 3], [4, 4, 4]]))
    assert found[0, 0] == 1
    assert found[1].isnan().all()
    assert found[:, 1].isnan().all()


def test_variation_in_closed_form():
    # Mean 5, variance (9 + 1 + 1 + 9) / 4 = 5; its sign does not count.
    scores = torch.tensor([[2.0, 4, 6, 8], [-2, -4, -6, -8], [3, 3, 3, 3]])
    expected = [math.sqrt(5) / 5, math.sqrt(5) / 5, 0]
    assert variation(scores).tolist() == pytest.approx(expected)
    assert not variation(torch.zeros(1, 3)).isfinite()


def test_norms_of_normal_filters_vary_as_the_study_says():
    # Of d weights: 1 / sqrt(2 d), and sqrt((pi / 2 - 1) / d) of the L1 norm.
    filters = torch.randn(4000, 144)
    scores = torch.stack([filters.norm(dim=1), filters.abs().sum(1)])
    expected = [1 / math.sqrt(288), math.sqrt((math.pi / 2 - 1) / 144)]
    assert variation(scores).tolist() == pytest.approx(expected, rel=0.05)


def test_overlaps_by_hand():
    kept = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 1, 1, 0], [0, 0, 1, 1, 0]])
    # Groups of three and two channels: 1 of 3 and 1 of 1; 0 of 3 and 1; 1 of
    # 2 and 1.
    third = (1 / 3 + 1) / 2
    expected = [[1, third, 0.5], [third, 1, 0.75], [0.5, 0.75, 1]]
    found = overlaps(kept.bool(), [3, 2])
    assert torch.allclose(found, torch.tensor(expected).double())
