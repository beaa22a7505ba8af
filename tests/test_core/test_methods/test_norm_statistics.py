# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Running statistics that are put back."""

import copy
import pickle

import torch
from torch import nn

from mmlapp.core.methods.norm_statistics import NormStatistics


def test_the_first_forward_of_a_step_counts():
    norm, statistics = nn.BatchNorm1d(3), NormStatistics()
    twin = copy.deepcopy(norm)
    for _ in range(2):  # of one step
        statistics.note([norm])
        images = torch.rand(4, 3)
        norm(images), twin(images)
    alive = torch.tensor([True, False, True])
    statistics.put_back([(norm, alive)])
    first = twin.running_mean * alive
    assert torch.equal(norm.running_mean, first)
    # A variance begins at one.
    assert torch.equal(
        norm.running_var, torch.where(alive, twin.running_var, 1.0)
    )
    statistics.note([norm])
    norm(torch.rand(4, 3))
    statistics.put_back([(norm, ~alive)])
    assert torch.equal(norm.running_mean[alive], first[alive])
    assert norm.running_mean[1] != 0


def test_norms_without_statistics_have_none():
    norm, statistics = nn.GroupNorm(1, 3), NormStatistics()
    untracked = nn.BatchNorm1d(3, track_running_stats=False)
    statistics.note([norm, untracked])
    untracked(torch.rand(4, 3))
    statistics.put_back(
        [(n, torch.zeros(3).bool()) for n in (norm, untracked)]
    )
    assert untracked.running_mean is None
    assert not statistics.noted


def test_copies_and_files_have_nothing_of_a_step():
    norm, statistics = nn.BatchNorm1d(3), NormStatistics()
    statistics.note([norm])
    assert not copy.deepcopy(statistics).noted
    assert not pickle.loads(pickle.dumps(statistics)).noted
    assert statistics.noted
