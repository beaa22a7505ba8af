# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Processes that differ are found; real ones are in test_distributed."""

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmlapp.core import LAPP, PruningError, attach
from mmlapp.engine.training import ranks


@pytest.fixture
def lapp() -> LAPP:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)
    )
    lapp = attach(model, torch.rand(1, 3, 8, 8))
    lapp.begin(0.5, 10)
    return lapp


def spoil_mask(lapp: LAPP) -> None:
    lapp.mask[9] = ~lapp.mask[9]


def spoil_threshold(lapp: LAPP) -> None:
    lapp.threshold.data[1] += 1e-6


def spoil_scores(lapp: LAPP) -> None:
    lapp.scores[13] = float('nan')


def spoil_progress(lapp: LAPP) -> None:
    lapp.progress[1] += 1


@pytest.mark.parametrize(
    ('spoil', 'text'),
    [
        (spoil_mask, 'rank 1 differs from rank 0 in the mask of 2: '),
        (spoil_threshold, 'in the threshold of 2: '),
        (spoil_scores, 'in the scores of 2: '),
        (spoil_progress, 'in the schedule: '),
    ],
)
def test_the_first_difference_is_named(
    lapp: LAPP,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[LAPP], None],
    text: str,
) -> None:
    other = copy.deepcopy(lapp)
    monkeypatch.setattr(
        ranks,
        'dist',
        SimpleNamespace(
            get_world_size=lambda: 2,
            all_gather=lambda mine: [mine, ranks.checksums(other)],
        ),
    )
    ranks.check_ranks(lapp)
    with torch.no_grad():
        spoil(other)
    with pytest.raises(PruningError, match=text):
        ranks.check_ranks(lapp)


def test_one_process_compares_nothing(lapp: LAPP) -> None:
    spoil_scores(lapp)
    ranks.check_ranks(lapp)
