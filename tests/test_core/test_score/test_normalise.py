# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core.score import NORMALISATIONS


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


def test_nothing_is_done_where_nothing_is_asked():
    scores = torch.rand(9)
    assert torch.equal(NORMALISATIONS['none'](scores), scores)
