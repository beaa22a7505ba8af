# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
import torch

from mmlapp.core.score.clusters import k_means, standardised


def spread(points, owner):
    """Squared distances from the means of the clusters, in all."""
    return sum(
        float((points[owner == c] - points[owner == c].mean(0)).square().sum())
        for c in set(owner.tolist())
    )


@pytest.mark.parametrize('seed', range(5))
def test_clusters_that_lie_apart_are_the_best_of_all_partitions(seed):
    torch.manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0], [6.0, 1.0], [-3.0, 7.0]])
    points = centres[torch.randint(3, (7,))] + torch.randn(7, 2)
    owner = k_means(points, 3, first=seed)
    every = (torch.tensor(p) for p in itertools.product(range(3), repeat=7))
    best = min(spread(points, other) for other in every)
    assert spread(points, owner) <= 1.3 * best + 1e-6


def test_every_point_is_nearest_to_the_mean_of_its_own():
    points = torch.randn(60, 5)
    owner = k_means(points, 6, first=0)
    means = torch.stack([points[owner == c].mean(0) for c in range(6)])
    assert torch.equal(torch.cdist(points, means).argmin(1), owner)


@pytest.mark.parametrize('count', [1, 3, 9])
def test_there_are_no_more_clusters_than_different_points(count):
    points = torch.tensor([[0.0], [4.0], [9.0]]).repeat(2, 1)
    owner = k_means(points, count, first=1)
    assert torch.equal(owner[:3], owner[3:])
    assert owner.unique().numel() == min(count, 3)


def test_distances_are_those_of_correlation():
    rows = torch.randn(8, 20, dtype=torch.float64) * 3 + 5
    points = standardised(rows)
    expected = 2 - 2 * torch.corrcoef(rows)
    found = torch.cdist(points, points).square()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_channels_that_never_change_have_no_direction():
    rows = torch.tensor([[0.1] * 7, [0.0] * 7, [-3e5] * 7])
    assert (standardised(rows) == 0).all()
