# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.core import PruningError
from mmlapp.core.plan import reading


@pytest.mark.parametrize(
    ('read', 'value', 'match'),
    [
        (reading.text, 3, 'at is 3: expected a text'),
        (
            reading.integer(9, 'a digit'),
            True,
            'True: expected a digit, from 0',
        ),
        (reading.integer(9, 'a digit'), 10, 'at is 10: expected a digit'),
        (reading.number(0, 'some'), 0, 'at is 0: expected some'),
        (reading.number(0, 'some'), False, 'at is False: expected some'),
        (reading.sequence(reading.text), 'ab', "at is 'ab': expected a list"),
        (reading.sequence(reading.text), ['a', 1], r'at\[1\] is 1: expected'),
        (reading.mapping(reading.text), [], 'at is .*: expected entries by'),
        (reading.mapping(reading.text), {'a': 1}, r"at\['a'\] is 1: expected"),
        (reading.record({'a': reading.text}), {}, "at has no 'a'"),
        (reading.record({}), {'b': 1}, "a name in at is 'b': expected one"),
        (reading.plain, {'a': [1, {2}]}, r"at\['a'\]\[1\] is .2.: expected"),
        (reading.plain, float('nan'), 'at is nan: expected'),
    ],
)
def test_what_is_refused(read, value, match):
    with pytest.raises(PruningError, match=match):
        read(value, 'at')


def test_long_values_are_shown_in_short():
    with pytest.raises(PruningError) as caught:
        reading.text(list(range(10**5)), 'at')
    assert len(str(caught.value)) < 100


def test_plain_data_comes_back():
    data = {'a': [1, 2.5, None, True, 'b', {'c': []}]}
    assert reading.plain(data, 'at') == data
    assert reading.plain((1, (2,)), 'at') == [1, [2]]


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        ('{"a": 1, "a": 2}', "the name 'a' is there twice"),
        ('{"b": {"a": 1, "a": 1}}', "the name 'a' is there twice"),
        ('[NaN]', 'holds NaN, expected finite numbers'),
        ('[-Infinity]', 'holds -Infinity'),
        ('[' * 10**5, 'nested too deeply'),
        ('9' * 5000, 'no complete JSON'),
        ('{"a": 1', 'no complete JSON'),
        ('{} {}', 'no complete JSON'),
    ],
)
def test_what_is_no_json(content, match):
    with pytest.raises(PruningError, match=match):
        reading.parse_json(content)


def test_a_digest_tells_values_apart_but_not_orders():
    first = reading.digest({'a': 1, 'b': [1, 2]})
    assert reading.digest({'b': (1, 2), 'a': 1}) == first
    assert reading.digest({'a': 1, 'b': [2, 1]}) != first
    assert reading.digest({'a': 1.5, 'b': [1, 2]}) != first
