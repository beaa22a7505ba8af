# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers that know which channels they count."""

import pickle

import pytest
import torch

from mmlapp.core.trace.counted import Computed, Source, Width


def width(value, attribute=''):
    return Width(value, Source(None, lambda: torch.arange(value), attribute))


def test_products_and_quotients_know_what_they_count():
    number = width(12)
    for made, value, times, parts in (
        (number * 2, 24, 2, 1),
        (2 * number, 24, 2, 1),
        (number // 4, 3, 1, 4),
        (number // 4 * 6, 18, 3, 2),
    ):
        assert (made, made.times, made.parts) == (value, times, parts)
    assert type(number * 0) is int
    assert number * 0.5 == 6.0
    for made in (-number, number + number // 2, sum([number] * 2)):
        assert {type(term) for term in made.terms} == {Width}
    # Of two any may be the one; what is the other's multiple is kept.
    both = number * width(2)
    assert (both, both.times, both.other, both.other.times) == (24, 2, 24, 12)


def test_what_is_computed_knows_from_what():
    number = width(12)
    for made, value, less in (
        (number + 1, 13, 11),
        (number - 1, 11, 9),
        (1 - number, -11, -9),
        (number // 5, 2, 2),
        (-number // 5, -3, -2),
        ((number + 1) * 3 - 2, 37, 31),
        (2 * (3 - number // 5), 2, 2),
        (-(number + 1) // 4, -4, -3),
    ):
        assert (type(made), made) == (Computed, value)
        assert made.base is number
        assert (made.function(12), made.function(10)) == (value, less)
    # Both are fewer then, or it is no number of channels any more.
    assert type((number + 1) - (number + 2)) is int
    assert type(number + 1.5) is type((number + 1) / 2) is float
    for wrong in ('1', None):
        for made in (number, number + 1):
            with pytest.raises(TypeError):
                made + wrong
            with pytest.raises(TypeError):
                wrong - made


def test_a_width_is_a_number_in_files():
    for number in (width(3), width(3) + 1):
        assert type(pickle.loads(pickle.dumps(number))) is int
