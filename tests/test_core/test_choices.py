# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
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


def test_a_name_is_taken_once(table):
    with pytest.raises(PruningError, match="score='a' is already registered"):
        table.register('a')
    assert table['a'] == 1
