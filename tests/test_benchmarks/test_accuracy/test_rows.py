# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the tables compare."""

import pytest
from accuracy.build import build
from accuracy.rows import TABLES

from mmlapp.core.methods import METHODS


def method_of(row):
    return row.method if isinstance(row.method, str) else row.method['type']


FAMILY = {n: row for n, row in TABLES['family'].items() if row.method}


def test_the_family_is_complete():
    """But for the control with random rates."""
    own = {n for n in METHODS if METHODS[n].__module__.startswith('mmlapp.')}
    assert {'random', *map(method_of, FAMILY.values())} == own
    assert {row.target for row in FAMILY.values()} == {0.5}


@pytest.mark.parametrize('name', FAMILY)
def test_every_member_comes_to_its_budget(name):
    row = FAMILY[name]
    built = build(row, epochs=1, seed=0)
    if built.pruner is None:
        assert 0.47 < built.wide <= 0.5
        return
    built.pruner.begin({'flops': row.target}, steps=100)
    built.pruner.finish()
    assert 0.49 < built.pruner.ratios()['flops'] <= 0.5
