# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import itertools
from dataclasses import replace

import pytest
import torch

from mmlapp.core import analyse
from mmlapp.core.analysis.counts import (
    MOST,
    OTHERWISE,
    Count,
    kept_count,
    numbers_of,
    places_of,
    some_counts,
    trial_mask,
)

PRIMES = {3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61}


@pytest.mark.parametrize('size', range(4, 65, 2))
def test_some_of_an_even_number_are_an_odd_prime(size):
    counts = {kept_count(size, number) for number in range(40)}
    assert counts <= PRIMES
    assert max(counts) < size


@pytest.mark.parametrize('size', range(5, 65, 2))
def test_some_of_an_odd_number_are_even_and_divided_by_nothing_of_it(size):
    counts = {kept_count(size, number) for number in range(40)}
    assert min(counts) > 2
    assert max(counts) < size
    assert all(count % 2 == 0 for count in counts)
    parts = [part for part in range(2, size) if size % part == 0]
    assert all(count % part for count in counts for part in parts)


def test_an_odd_width_that_must_not_become_even(net, conv, image, frozen):
    def forward(m, x):
        y = m.a(x)
        return m.b(y if y.shape[1] % 2 else y.relu())

    reason = frozen(net(forward, a=conv(3, 9), b=conv(9, 5)), image)['a']
    assert 'would compute something else' in reason


@pytest.mark.parametrize('size', [2, 3])
def test_what_has_no_odd_prime_loses_one(size):
    assert kept_count(size, 0) == size - 1


@pytest.mark.parametrize('size', range(6, 130))
def test_groups_of_one_size_keep_different_numbers(size):
    """Until all numbers were used, and then these again."""
    numbers = numbers_of(size)
    assert (
        len(set(numbers)) == len(numbers) > (1 if size < 8 or size % 2 else 2)
    )
    counts = [kept_count(size, place) for place in range(2 * len(numbers))]
    assert counts == [*numbers, *numbers]
    assert all(a != b for a, b in itertools.pairwise(counts))


def test_of_many_numbers_some_are_used():
    assert len(numbers_of(25088)) == MOST
    inner = [k for k in numbers_of(64) if not 8 <= k <= 56]
    assert len(numbers_of(64)) == 12
    assert inner == []


def test_small_groups_have_one_number_and_every_second_another(model, images):
    """Of three groups of four 3, 2 and 3, unless a norm hides what two do."""
    for size in OTHERWISE:
        assert numbers_of(size) == (size - 1,)
        assert OTHERWISE[size] < size - 1
    groups = analyse(model, images).groups
    items = tuple(replace(group, size=4) for group in groups.items)
    groups = replace(groups, items=items)
    names = names_of(groups)
    assert places_of(groups) == [0, 1, 2]
    assert some_counts(groups, ()) == [3, 2, 3]
    assert some_counts(groups, names[:1]) == [3, 2, 3]
    assert some_counts(groups, names[1:2]) == [3, 3, 3]
    sizes = {names[0]: 4, names[1]: 16, names[2]: 16}
    items = tuple(replace(g, size=sizes.get(g.name, 4)) for g in groups.items)
    groups = replace(groups, items=items)
    assert places_of(groups) == [0, 0, 1]
    assert some_counts(groups, ()) == [3, 11, 7]


@pytest.mark.parametrize(
    ('count', 'floor', 'kept'),
    [(Count.ONE, 1, 1), (Count.ONE, 3, 3), (Count.SOME, 1, 7)],
)
def test_a_mask_keeps_that_many(model, images, count, floor, kept):
    groups = analyse(model, images).groups
    state = torch.get_rng_state()
    mask = trial_mask(groups, {'b'}, count, floor)
    assert torch.equal(torch.get_rng_state(), state)
    sizes = [group.size for group in groups.prunable]
    parts = mask.split(sizes)
    assert [int(p.sum()) for p in parts] == [sizes[0], kept, *sizes[2:]]
    assert torch.equal(mask, trial_mask(groups, {'b'}, count, floor))


def test_a_mask_keeps_what_a_group_needs(model, images):
    groups = analyse(model, images).groups
    items = [replace(group, floor=2) for group in groups.items]
    groups = replace(groups, items=tuple(items))
    mask = trial_mask(groups, {g.name for g in items}, Count.ONE, 1)
    parts = mask.split([group.size for group in groups.prunable])
    assert {int(part.sum()) for part in parts} == {2}


def test_what_a_norm_is_computed_over_is_not_left_alone(model, images):
    groups = analyse(model, images).groups
    names = {group.name for group in groups.prunable}

    def kept(count, normalised):
        mask = trial_mask(groups, names, count, 1, normalised)
        sizes = [group.size for group in groups.prunable]
        parts = dict(zip(names_of(groups), mask.split(sizes), strict=True))
        return {name: int(part.sum()) for name, part in parts.items()}

    assert kept(Count.ONE, {'b'}) == dict.fromkeys(names, 1) | {'b': 3}
    assert set(kept(Count.ALONE, {'b'}).values()) == {1}


def names_of(groups):
    return [group.name for group in groups.prunable]


def test_how_many_are_kept_can_be_said(model, images):
    groups = analyse(model, images).groups
    names = [group.name for group in groups.prunable]
    mask = trial_mask(groups, names, Count.ONE, 1, kept={'a': 3})
    left = [
        int(part.sum())
        for part in mask.split([group.size for group in groups.prunable])
    ]
    assert dict(zip(names, left, strict=True)) == {'a': 3, 'b': 1, 'c': 1}
