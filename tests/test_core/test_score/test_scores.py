# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import LayerChannels, PruningError, register_score
from mmlapp.core.score.scores import NORMALISATIONS, SCORES


@pytest.fixture
def filters():
    return torch.randn(6, 4)


def test_scores_of_the_literature_are_there():
    assert {'l1', 'l2', 'bn_scale', 'fpgm', 'taylor'} <= set(SCORES)


@pytest.mark.parametrize('power', [1, 2])
def test_norms_of_filters(filters, power):
    expected = [
        sum(abs(w) ** power for w in row) ** (1 / power)
        for row in filters.tolist()
    ]
    found = SCORES[f'l{power}'](LayerChannels(filters))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_scale_of_the_norm(filters):
    scale = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5, -0.5])
    found = SCORES['bn_scale'](LayerChannels(filters, scale=scale))
    assert found.tolist() == [1, 2, 0, 3, 0.5, 0.5]


def test_scale_falls_back_where_no_norm_follows(filters):
    found = SCORES['bn_scale'](LayerChannels(filters))
    torch.testing.assert_close(found, SCORES['l2'](LayerChannels(filters)))


def test_geometric_median_by_loops(filters):
    rows = filters.tolist()
    expected = [
        sum(
            sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) ** 0.5
            for other in rows
        )
        for row in rows
    ]
    found = SCORES['fpgm'](LayerChannels(filters))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_filter_amid_the_others_is_the_least_important():
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]])
    assert SCORES['fpgm'](LayerChannels(corners)).argmin() == 4


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
    found = SCORES['taylor'](LayerChannels(filters, gradient))
    torch.testing.assert_close(found, torch.stack(expected))


def test_taylor_before_the_first_gradient(filters):
    assert SCORES['taylor'](LayerChannels(filters)).unique().numel() == 1


def test_mean_of_normalised_scores_is_one():
    scores = torch.rand(20) * 7
    found = NORMALISATIONS['mean'](scores)
    assert found.mean().item() == pytest.approx(1)
    torch.testing.assert_close(found, NORMALISATIONS['mean'](scores * 100))


def test_standard_scores():
    found = NORMALISATIONS['std'](torch.rand(20) * 7)
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.square().mean().item() == pytest.approx(1)


def test_ranks():
    found = NORMALISATIONS['rank'](torch.tensor([5.0, -1.0, 9.0, 6.0]))
    torch.testing.assert_close(found, torch.tensor([1.5, 0.5, 3.5, 2.5]) / 4)


@pytest.mark.parametrize('name', list(NORMALISATIONS))
def test_normalisation_keeps_the_order(name):
    scores = torch.rand(30)
    found = NORMALISATIONS[name](scores)
    assert found.argsort().tolist() == scores.argsort().tolist()


@pytest.mark.parametrize('name', list(NORMALISATIONS))
@pytest.mark.parametrize('value', [0.0, 3.0])
def test_equal_scores_stay_finite(name, value):
    found = NORMALISATIONS[name](torch.full((8,), value))
    assert found.isfinite().all()


def test_a_score_of_ones_own():
    @register_score('test_largest_weight')
    def largest(channels):
        return channels.filters.abs().amax(dim=1)

    assert SCORES['test_largest_weight'] is largest
    with pytest.raises(PruningError, match='already registered'):
        register_score('test_largest_weight')
