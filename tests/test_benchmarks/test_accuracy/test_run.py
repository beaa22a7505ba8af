# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tables of other networks run from their build to their accuracy."""

from dataclasses import replace
from functools import partial

import pytest
from accuracy.network import classifier
from accuracy.rows import TABLES
from accuracy.run import run
from accuracy.training import Recipe

DEPTHS = {'resnet56': 8, 'vgg16': 11}
ROWS = [(table, name) for table in DEPTHS for name in TABLES[table]]


@pytest.mark.parametrize('key', ROWS, ids='-'.join)
def test_every_row_is_trained_to_its_budget(key, noise, monkeypatch):
    """At less depth and width; a phase has two steps of four."""
    table, name = key
    row = replace(TABLES[table][name], depth=DEPTHS[table], phase=0.5)
    monkeypatch.setitem(TABLES[table], name, row)
    # First stages of 8 channels, and of 16.
    small = partial(classifier, width=8 if table == 'resnet56' else 4)
    monkeypatch.setattr('accuracy.build.classifier', small)
    result = run(table, name, 0, Recipe(epochs=1, batch=16), noise)
    assert result['epochs'] == 1
    if name == 'dense':
        assert result['flops'] == result['cost'] == 1
        return
    assert 0.4 < result['flops'] <= 0.5
    narrow = name in ('uniform', 'random')
    share = 1 if narrow else 0.5
    assert result['cost'] == pytest.approx(
        share * result['flops'] + (1 - share)
    )


@pytest.mark.parametrize(
    ('table', 'network'),
    [('resnet56', ('resnet', 56)), ('vgg16', ('vgg', 16))],
)
def test_tables_of_other_networks_have_all_rows(table, network):
    rows = dict(TABLES[table])
    assert {(row.kind, row.depth) for row in rows.values()} == {network}
    del rows['dense']
    assert {row.target for row in rows.values()} == {0.5}
    # What adds nothing up has no streams.
    streams = {'lapp-inner'} if table == 'resnet56' else set()
    named = {'uniform', 'random', 'lapp', 'lapp-near'}
    assert rows.keys() == named | streams
