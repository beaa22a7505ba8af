# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a vector at once, and one after the other."""

import pytest
import torch

from mmlapp.core.segments import Segments, segments

SIZES = [3, 1, 6, 2]


@pytest.fixture
def values():
    """With equal ones."""
    values = torch.tensor([2.0, 1, 2, 5, 3, 3, 1, 0, 1, 3, 7, 7])
    return values


def test_sums_and_means(values):
    parts = values.split(SIZES)
    found = Segments(SIZES)
    assert found.sum(values).tolist() == [float(p.sum()) for p in parts]
    assert found.mean(values).tolist() == [float(p.mean()) for p in parts]


@pytest.mark.parametrize('descending', [False, True])
def test_each_part_is_sorted_and_the_first_of_equals_stays(values, descending):
    found = Segments(SIZES).order(values, descending)
    starts = [0, 3, 4, 10]
    expected = [
        part.argsort(descending=descending, stable=True) + start
        for part, start in zip(values.split(SIZES), starts, strict=True)
    ]
    assert torch.equal(found, torch.cat(expected))


@pytest.mark.parametrize('descending', [False, True])
def test_ranks_turn_the_order_around(values, descending):
    parts = Segments(SIZES)
    found = parts.ranks(values, descending)
    sign = -1 if descending else 1
    for part, ranks in zip(
        values.split(SIZES), found.split(SIZES), strict=True
    ):
        keys = [(sign * v, i) for i, v in enumerate(part.tolist())]
        assert ranks.tolist() == [sorted(keys).index(key) for key in keys]


def test_one_of_every_part(values):
    found = Segments(SIZES).at(values, torch.tensor([2, 0, 5, 1]))
    assert found.tolist() == [2, 5, 3, 7]


def test_an_empty_part_is_zero():
    parts = Segments([0, 2])
    assert parts.mean(torch.tensor([1.0, 3])).tolist() == [0, 2]


def test_made_once_for_all():
    """In a backward, too, whoever asked first."""
    with torch.inference_mode():
        first = segments([4, 2], torch.device('cpu'))
    assert segments((4, 2), torch.device('cpu')) is first
    weight = torch.ones(2, requires_grad=True)
    weight[first.owner].square().sum().backward()
    assert weight.grad.tolist() == [8, 4]
