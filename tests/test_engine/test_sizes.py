# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Sizes in words; the doctests have the plain cases."""

from mmlapp.engine.sizes import sums_by_kind


def test_a_network_of_channels_has_no_heads() -> None:
    assert sums_by_kind({'a': (4, 2)}, {}) == {'channels': [4, 2]}
    assert sums_by_kind({'a': (4, 2)}, {}, 'filters') == {'filters': [4, 2]}


def test_a_network_of_heads_has_no_channels() -> None:
    assert sums_by_kind({'a': (4,), 'b': (3,)}, {'a': 8, 'b': 2}) == {
        'heads': [7]
    }
