# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core.score import NORMALISATIONS
from mmlapp.core.score.normalise import normalised
from mmlapp.core.segments import Segments


def test_mean_of_normalised_scores_is_one():
    scores = torch.rand(20) * 7
    found = normalised(NORMALISATIONS['mean'], scores)
    assert found.mean().item() == pytest.approx(1)
    torch.testing.assert_close(
        found, normalised(NORMALISATIONS['mean'], scores * 100)
    )


def test_standard_scores():
    found = normalised(NORMALISATIONS['std'], torch.rand(20) * 7)
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.square().mean().item() == pytest.approx(1)


def test_ranks():
    found = normalised(
        NORMALISATIONS['rank'], torch.tensor([5.0, -1.0, 9.0, 6.0])
    )
    torch.testing.assert_close(found, torch.tensor([1.5, 0.5, 3.5, 2.5]) / 4)


@pytest.mark.parametrize('name', list(NORMALISATIONS))
def test_normalisation_keeps_the_order(name):
    scores = torch.rand(30)
    found = normalised(NORMALISATIONS[name], scores)
    assert found.argsort().tolist() == scores.argsort().tolist()


@pytest.mark.parametrize('name', list(NORMALISATIONS))
@pytest.mark.parametrize('value', [0.0, 3.0])
def test_equal_scores_stay_finite(name, value):
    found = normalised(NORMALISATIONS[name], torch.full((8,), value))
    assert found.isfinite().all()


def test_nothing_is_done_where_nothing_is_asked():
    scores = torch.rand(9)
    assert torch.equal(normalised(NORMALISATIONS['none'], scores), scores)


@pytest.mark.parametrize('name', list(NORMALISATIONS))
def test_layers_are_normalised_as_each_alone(name):
    parts = [torch.rand(n) for n in (7, 1, 12)]
    found = NORMALISATIONS[name](torch.cat(parts), Segments([7, 1, 12]))
    alone = [normalised(NORMALISATIONS[name], part) for part in parts]
    torch.testing.assert_close(found, torch.cat(alone))
