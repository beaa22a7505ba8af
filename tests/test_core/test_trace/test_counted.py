# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Numbers that know which channels they count."""

import math
import operator
import pickle
from functools import partial
from itertools import product

import pytest
import torch

from mmlapp.core.trace.counted import (
    Computed,
    Fraction,
    Source,
    Width,
    product_of,
)


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
        assert made.bases == (number,)
        assert (made.function(12), made.function(10)) == (value, less)
    # It may divide by zero with fewer.
    assert type(8 / (number - 4)) is type((number / 2) / (number + 2)) is float
    for wrong in ('1', None):
        for made in (number, number + 1):
            with pytest.raises(TypeError):
                made + wrong
            with pytest.raises(TypeError):
                wrong - made


def test_fractions_know_from_what():
    number = width(12)
    for made, value, less in (
        (number / 5, 2.4, 2.0),
        (60 / number, 5.0, 6.0),
        (number * 0.75, 9.0, 7.5),
        (number + 1.5, 13.5, 11.5),
        (1.5 - number / 4, -1.5, -1.0),
        ((number + 1) / 2 * 4 - 1, 25.0, 21.0),
        (number // 2.5, 4.0, 4.0),
        (round(number / 7, 1), 1.7, 1.4),
    ):
        assert (type(made), made) == (Fraction, value)
        assert made.bases == (number,)
        assert (made.function(12), made.function(10)) == (value, less)
    for made, value, less in (
        (math.floor(number / 5), 2, 2),
        (math.ceil(number / 5), 3, 2),
        (round(number / 7) + 1, 3, 2),
    ):
        assert (type(made), made) == (Computed, value)
        assert (made.function(12), made.function(10)) == (value, less)


def test_functions_of_torch_take_a_fraction():
    half = width(3) / 2
    x = torch.ones(2, 3)
    assert torch.equal(x * half, torch.full((2, 3), half))
    assert float(torch.tensor(half)) == 1.5
    assert torch.equal(torch.add(x, x, alpha=half), x * 2.5)
    assert {1.5: 'found'}[half] == 'found'


@pytest.mark.parametrize('name', ['eq', 'ge', 'gt', 'le', 'lt', 'ne'])
def test_the_least_number_of_which_is_computed_what_compares_alike(name):
    """Of all, tried one by one."""
    compare = getattr(operator, name)
    functions = (
        lambda c: c + 2,
        lambda c: 9 - c,
        lambda c: (c - 1) // 5,
        lambda c: -(-c // 5),
        lambda c: 3 * (c // 5 - 1),
        lambda c: c / 4,
        lambda c: 30 / c - 2.5,
        lambda c: math.ceil(c * 0.75) - 1,
    )
    for function, other in product(functions, (*range(-12, 16), 2.5)):
        notes = []
        labels = partial(torch.arange, 12)
        number = Width(12, Source(None, labels, compared=notes))
        outcome = compare(function(number), other)
        alike = [compare(function(c), other) is outcome for c in range(1, 13)]
        # What begins behind the last one that compares otherwise.
        unlike = [c for c, same in enumerate(alike, start=1) if not same]
        least = max(unlike, default=0) + 1
        assert [found for _, found, _ in notes] == [least] * (least > 1)


def test_what_is_not_zero_is_as_true_as_it_was():
    """Of what code asks whether it is zero, as often as it asks."""
    for function, least in (
        (lambda c: c, 1),
        (lambda c: c // 4, 1),
        (lambda c: c // 5, 5),
        (lambda c: c - 2, 3),
        (lambda c: 12 - c, 12),
        (lambda c: c / 2, None),
    ):
        notes = []
        labels = partial(torch.arange, 12)
        number = Width(12, Source(None, labels, compared=notes))
        assert bool(function(number)) is bool(function(12))
        expected = [] if least is None else [least]
        assert [found for _, found, _ in notes] == expected


def test_types_of_numbers_make_plain_ones():
    for number in (width(3) + 1, width(3) / 2):
        made = type(number)(5)
        assert (type(made), made) == (number.kind, 5)


def test_in_loops_nobody_follows_hundreds_of_steps():
    notes = []
    source = Source(None, lambda: torch.arange(100), compared=notes)
    chain = total = Width(100, source) / 3
    for _ in range(1000):
        chain, total = chain + 1, total + Width(100, source) / 7
    # The same number again and again is one: after so many steps it is plain.
    assert type(chain) is type(total) is float


def test_the_same_number_twice_is_one():
    a, b, notes, _ = both()
    assert a * a > 100
    assert (a + 1) - (b + 1) > 0
    assert (a + 5) - (a // 5 + 1) > 9
    found = [(int(n), least, beside is None) for n, least, beside in notes]
    assert found == [(12, 11, True), (12, 9, False), (12, 7, True)]


def test_exact_quotients_of_two():
    a, b, notes, _ = both((8, 8))
    b.source = Source(None, partial(torch.arange, 8), compared=notes)
    assert a // b == 1
    assert (a // b) * 2 + 1 > 2
    found = [(n is a, least) for n, least, _ in notes]
    # 8 // 5 is one, 8 // 4 is two; of fewer than eight it would be none.
    assert found == [(True, 8), (False, 5), (True, 8)]


def test_large_numbers_are_not_tried_one_by_one():
    notes = []
    source = Source(None, lambda: torch.arange(2), compared=notes)
    number = Width(2**40, source)
    assert number + 1 > 2**20
    assert number // 3 < 2**40
    assert [least for _, least, _ in notes] == [2**20]


def test_a_difference_may_be_less_than_none():
    notes = []
    labels = partial(torch.arange, 12)
    few, many = (
        Width(count, Source(None, labels, compared=notes)) for count in (3, 12)
    )
    assert (few - many) + 1 < 0
    assert notes == [(many, 5, few)]


def test_a_width_is_a_number_in_files():
    for number in (width(3), width(3) + 1, width(3) / 2):
        found = pickle.loads(pickle.dumps(number))
        assert (type(found), found) == (number.kind, number)


def both(counts=(12, 8)):
    """Two numbers of channels, and what they note."""
    notes, left = [], []
    labels = partial(torch.arange, 12)
    source = Source(None, labels, compared=notes, remainders=left)
    return *(Width(count, source) for count in counts), notes, left


# Of 12 and 8: what is computed of both, and how it is compared.
OF_TWO = {
    'a difference': (lambda a, b: a - b, 'gt', 2),
    'a difference, not': (lambda a, b: b - a, 'gt', -1),
    'less than': (lambda a, b: a - b, 'lt', 5),
    'one more': (lambda a, b: a - (b + 1), 'ge', 0),
    'a quotient': (lambda a, b: a / b, 'gt', 1),
    'a whole quotient': (lambda a, b: a // b, 'eq', 1),
    'fifths': (lambda a, b: a // 5 - b / 5, 'ge', 0.25),
    'elements': (
        lambda a, b: product_of([3, a]) - product_of([3, b]),
        'gt',
        0,
    ),
}


@pytest.mark.parametrize('name', OF_TWO)
def test_what_is_computed_of_two_asks_each_beside_all_of_the_other(name):
    """Of all numbers of one of them, tried one by one."""
    function, compare, other = OF_TWO[name]
    a, b, notes, _ = both()
    compare = getattr(operator, compare)
    outcome = compare(function(a, b), other)
    expected = []
    for most, beside, alike in (
        (12, 8, lambda c: compare(function(c, 8), other) is outcome),
        (8, 12, lambda c: compare(function(12, c), other) is outcome),
    ):
        unlike = [c for c in range(1, most + 1) if not alike(c)]
        if unlike:
            expected.append((most, max(unlike) + 1, beside))
    found = [(int(n), c, int(beside)) for n, c, beside in notes if c > 1]
    assert found == expected


def test_two_that_are_compared_with_each_other_both_note_it():
    a, b, notes, _ = both()
    # 8 > 10 is not so, and of 6 fifths and up it would not be.
    assert not b > a // 5 * 4 + 2
    assert not product_of([2, b]) > product_of([2, a])
    assert [(int(n), c, int(beside)) for n, c, beside in notes] == [
        (12, 10, 8),
        (12, 8, 8),
    ]


def test_remainders_of_what_is_computed_repeat():
    a, b, _, left = both()
    for function, expected in (
        (lambda: (a + 3) % 7, [(12, 7)]),
        (lambda: -a % 5, [(12, 5)]),
        # 0000 11111 000: of up to twelve it repeats after nine.
        (lambda: divmod(a // 5, 2), [(12, 9)]),
        (lambda: (a + b) % 7, [(12, 7), (8, 7)]),
        (lambda: product_of([9, a]) % 6, [(12, 2)]),
        (lambda: (a < 10**400) and a % 7, [(12, 7)]),
        (lambda: 64 % a, [(12, 11)]),
        (lambda: a % b, [(12, 8), (8, 7)]),
    ):
        left.clear()
        function()
        assert [(int(number), by) for number, by in left] == expected
    assert (divmod(a, 5), 20 % a, (a / 5) % 1) == ((2, 2), 8, 2.4 % 1)
