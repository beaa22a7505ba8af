# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is tried of numbers of channels one by one."""

import math
from functools import partial
from operator import lt

import pytest
import torch

from mmlapp.core.trace.bases import (
    LONGEST,
    least_count,
    period,
    turns,
    unlike_of,
)
from mmlapp.core.trace.counted import Source, Sum, Width


@pytest.mark.parametrize('most', [12, LONGEST + 12])
def test_from_which_number_on(most):
    """Far beyond what is tried one by one the function never falls."""
    for limit in (1, 5, most - 1):
        found = least_count(most, lambda n: 2 * n + 1, partial(lt, 2 * limit))
        assert found == limit
    # It falls and rises.
    assert least_count(12, lambda n: n * (n - 12), lambda y: y > -2) == 12


def test_remainders_repeat_as_soon_as_they_do():
    for function, by, expected in (
        (lambda n: n, 5, 5),
        (lambda n: 3 * n, 6, 2),
        (lambda n: n // 2, 3, 6),
        (lambda n: 7, 5, 1),
        (lambda n: n / 2, 1, 2),
    ):
        assert period(function, 40, by) == expected
    assert period(lambda n: n, 40, 0) == 0
    assert period(lambda n: n // 2, LONGEST + 1, 3) == 3


def test_numbers_of_the_same_channels_are_one():
    def of(first, size):
        return Source(None, partial(torch.arange, first, first + size))

    a, again, b = Width(8, of(0, 8)), Width(8, of(0, 8)), Width(8, of(8, 8))
    half = Width(4, of(0, 8), 1, 2)
    sums = [Sum(16, ((w, 1), (b, 1))) for w in (a, again)]
    unlike, places = unlike_of([a, b, again, half, *sums])
    assert [id(number) for number in unlike] == list(
        map(id, (a, b, half, sums[0]))
    )
    assert places == [0, 1, 0, 2, 3, 3]


@pytest.mark.parametrize('most', [12, 13, 40])
def test_after_how_many_something_is_true_again(most):
    def missing(count):
        return math.ceil(count / 4) * 4 - count

    # Of 13, which are three too few, it is asked whether some are missing.
    whole = missing(most) == 0
    assert turns(most, missing, lambda n: (n == 0) is whole) == 4
    # A number that is large enough, or always, or seldom.
    assert turns(most, lambda n: n, lambda n: n > 3) is None
    assert turns(most, lambda n: n, lambda n: n > 0) is None
    assert turns(most, lambda n: -n % 20, lambda n: n != 3) is None
