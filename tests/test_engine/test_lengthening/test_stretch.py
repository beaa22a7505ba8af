# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Points and lengths of a training that gets another length."""

from typing import Any

import pytest

from mmlapp.engine.lengthening import stretch as roles
from mmlapp.engine.lengthening.stretch import INF, Stretch

HALF_MORE, HALF = Stretch(6, 9), Stretch(6, 3)


@pytest.mark.parametrize(
    ('old', 'new', 'value', 'expected'),
    [
        (200, 318, 0, 0),
        (200, 318, 100, 159),
        (200, 318, 150, 239),  # 238.5
        (200, 318, 200, 318),
        (200, 318, 78200, 124338),  # iterations
        (6, 3, 1, 1),  # 0.5
        (6, 9, INF, INF),
        (6, 9, 0.5, 0.75),
    ],
)
def test_points(old: int, new: int, value: Any, expected: Any) -> None:
    assert Stretch(old, new).point(value) == expected


def test_the_end_is_the_end_whatever_the_lengths() -> None:
    for old in range(1, 40):
        for new in range(1, 60):
            found = [Stretch(old, new).point(at) for at in range(old + 1)]
            assert found[-1] == new
            assert found == sorted(found)


def test_spans_fit_between_points() -> None:
    # 1 .. 4 becomes 1.5 .. 6, rounded 2 .. 6.
    assert HALF_MORE.span(3, 1) == 4
    assert HALF_MORE.span(INF) == INF
    assert HALF_MORE.span(0.5) == 0.75
    # 3 .. 4 becomes 1.5 .. 2, both rounded to 2.
    assert HALF.span(1, 3) == 1


@pytest.mark.parametrize(
    ('role', 'entry', 'value', 'expected'),
    [
        ('keep', {}, 4, 4),
        ('point', {}, 4, 6),
        ('first', {}, 1, 1),
        ('first', {}, 5, 7),
        ('end', dict(begin=1), 5, 8),
        ('end', dict(begin=1), INF, INF),
        ('span', dict(begin=1), 3, 4),
        ('span', {}, 0, 0),
        ('last', {}, 2, 3),
        ('last', {}, 8, 9),
        ('spans', dict(begin=1), (1, 3), [1, 4]),
        ('periods', {}, (1, 1, 4), [2, 1, 6]),
        ('rate', {}, 0.125, 0.25),
        ('firsts', {}, [(1, 5), (5, 1)], [(1, 5), (7, 1)]),
        ('by_name', {}, dict(layer=2), dict(layer=3)),
        (
            'actions',
            {},
            [dict(action_epoch=2, loss=1)],
            [dict(action_epoch=3, loss=1)],
        ),
    ],
)
def test_roles(
    role: str, entry: dict[str, Any], value: Any, expected: Any
) -> None:
    found = getattr(roles, role)(HALF_MORE, entry, value)
    assert found == (pytest.approx(expected) if role == 'rate' else expected)


@pytest.mark.parametrize('size', range(1, 12))
@pytest.mark.parametrize(('old', 'new'), [(10, 15), (9, 14), (10, 10)])
def test_repeated_factors_multiply_to_the_same(
    size: int, old: int, new: int
) -> None:
    entry, stretch = dict(step_size=size), Stretch(old, new)
    longer = roles.step(stretch, entry, size)
    factor = roles.step_rate(stretch, entry, 0.5)
    # Applied at 1 and later multiples that lie before the end.
    before = len(range(size, old, size))
    after = len(range(longer, new, longer))
    assert factor**after == pytest.approx(0.5**before)
    assert abs(longer - size * new / old) <= 1
