# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmlapp.core.compare import (
    ROUGH_TOLERANCE,
    TRIAL_TOLERANCE,
    agree,
    largest_error,
    relative_error,
    relative_errors,
)


def test_relative_to_the_largest_value():
    a = torch.tensor([[1.0, -8.0], [0.5, 2.0]])
    b = torch.tensor([[1.0, -8.0], [0.5, 3.0]])
    assert relative_error(a, b) == 1 / 8


def test_the_imaginary_part_counts():
    a = torch.tensor([3 + 4j, 0])
    assert relative_error(a, torch.tensor([3 + 4j, 1j])) == 1 / 5
    assert relative_error(a, a.conj()) == 8 / 5
    assert not agree([a], [a.real + 0j])


def test_equal_zeros_agree_and_others_do_not():
    zero = torch.zeros(3)
    assert relative_error(zero, zero) == 0
    assert relative_error(zero, torch.full((3,), 1e-3)) > 1


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_what_is_no_number_never_agrees(value):
    broken = torch.tensor([1.0, value])
    for pair in ([broken], [torch.ones(2)]), ([torch.ones(2)], [broken]):
        assert not agree(*pair)


@pytest.mark.parametrize(
    'other', [[], [torch.ones(2, 1)], [torch.ones(2), torch.ones(1)]]
)
def test_other_numbers_or_shapes_have_no_error(other):
    assert relative_errors([torch.ones(2)], other) is None
    assert not agree([torch.ones(2)], other)


def test_what_has_no_values_is_left_out():
    empty, meta = torch.ones(0), torch.ones(2, device='meta')
    assert relative_errors([empty, meta], [empty, meta]) == []
    assert agree([empty], [empty])


@pytest.mark.parametrize(('factor', 'same'), [(0.9, True), (1.1, False)])
@pytest.mark.parametrize('tolerance', [TRIAL_TOLERANCE, ROUGH_TOLERANCE])
def test_the_tolerance_of_the_trial(factor, same, tolerance):
    a = torch.full((4,), 2.0).double()
    b = a * (1 + factor * tolerance)
    assert agree([a], [b], tolerance) is same


def test_largest_error_of_all_outputs():
    a, b = torch.tensor([1.0, -4.0]), torch.tensor([1.0, -3.0])
    assert largest_error([a, a], [a, b]) == 0.25
    assert largest_error([a], [a]) == 0
    assert largest_error([torch.zeros(2)], [torch.zeros(2)]) == 0
    assert largest_error([torch.zeros(2)], [a]) > 1
    assert largest_error([a], [a, a]) == math.inf
    assert largest_error([a], [a[:1]]) == math.inf
    assert largest_error([], []) == math.inf
    assert math.isnan(largest_error([a * math.inf], [a * math.inf]))


def test_no_output_hides_that_another_is_no_number():
    a = torch.tensor([1.0, -4.0])
    for found in ([a, a * math.nan], [a * math.nan, a]):
        assert math.isnan(largest_error([a, a], found))
