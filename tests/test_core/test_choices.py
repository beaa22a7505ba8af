# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from typing import ClassVar

import pytest

from mmlapp.core import PruningError
from mmlapp.core.choices import Choices


@pytest.fixture
def table():
    table = Choices('score')
    table.register('b')(2)
    table.register('a')(1)
    return table


def test_entries_are_found_by_name(table):
    assert table['a'] == 1
    assert list(table) == ['b', 'a']


def test_register_returns_the_entry():
    def entry():
        return None

    assert Choices('score').register('x')(entry) is entry


def test_an_unknown_name_lists_the_known_ones(table):
    with pytest.raises(
        PruningError, match="score='c' is unknown; choose one of: a, b"
    ):
        table['c']


def test_an_unknown_name_may_be_nearly_known(makers):
    text = r"method='mades' is unknown; did you mean made\? choose one of: "
    with pytest.raises(PruningError, match=text):
        makers['mades']


def test_a_name_is_taken_once(table):
    with pytest.raises(PruningError, match="score='a' is already registered"):
        table.register('a')
    assert table['a'] == 1


class Made:
    """What the entries of a table make."""


@pytest.fixture
def makers():
    table = Choices('method', Made)
    table.register('made')(Made)
    return table


def test_what_was_made_is_taken_as_it_is(makers):
    made = Made()
    assert makers.build(made) is made
    assert isinstance(makers.build('made'), Made)


@pytest.mark.parametrize(
    'choice', [Made, lambda: Made(), ['made'], None, 5, object()]
)
def test_what_is_no_choice(makers, choice):
    """A class, a function that makes one, a list: all need a name."""
    with pytest.raises(
        PruningError,
        match=r'method=.*: expected a name or .* of Made; .* made,',
    ):
        makers.build(choice)


@pytest.mark.parametrize('choice', [['a'], None, 5, {'type': ['a']}])
def test_names_alone(table, choice):
    with pytest.raises(PruningError, match='score='):
        table.build(choice)
    with pytest.raises(PruningError, match='score='):
        table[choice]


def test_a_choice_in_full_has_what_was_not_said():
    inner, outer = Choices('rule'), Choices('method', Made)

    @inner.register('fast')
    def fast(rate=2, seed=None):
        """Makes nothing."""

    @outer.register('own')
    class Own(Made):
        choices: ClassVar = {'rule': inner}

        def __init__(self, steps, rule='fast', width=0.1):
            pass

    full = {
        'type': 'own',
        'rule': {'type': 'fast', 'rate': 2, 'seed': None},
        'width': 0.1,
    }
    for said in (
        'own',
        {'rule': 'fast', 'type': 'own'},
        {'type': 'own', 'rule': {'type': 'fast', 'rate': 2}},
        full,
    ):
        assert outer.in_full(said) == full
    other = outer.in_full({'type': 'own', 'rule': {'type': 'fast', 'rate': 3}})
    assert other['rule']['rate'] == 3
    made = Made()
    assert outer.in_full(made) is made
    with pytest.raises(PruningError, match="rule='slow' is unknown"):
        outer.in_full({'type': 'own', 'rule': 'slow'})
