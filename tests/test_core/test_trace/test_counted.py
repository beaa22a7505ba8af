# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers that know which channels they count."""

import pickle

import torch

from mmlapp.core.trace.counted import Source, Width


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
    for made in (number + 1, number - 1, number // 5, number * 0):
        assert type(made) is int
    assert number * 0.5 == 6.0
    for made in (-number, number + number // 2, sum([number] * 2)):
        assert {type(term) for term in made.terms} == {Width}
    # Of two any may be the one; what is the other's multiple is kept.
    both = number * width(2)
    assert (both, both.times, both.other, both.other.times) == (24, 2, 24, 12)


def test_a_width_is_a_number_in_files():
    assert type(pickle.loads(pickle.dumps(width(3)))) is int
