# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every row deploys the cost that it is asked for."""

import pytest
import torch
from accuracy.build import EXAMPLE, SCOPE, build, first_channels, widths_of
from accuracy.cost import flops
from accuracy.network import DEPTH, STREAM, classifier
from accuracy.rows import TABLES

from mmlapp.core import Phase, attach, merge_bypasses

ROWS = []
for table, rows in TABLES.items():
    for name, row in rows.items():
        # Tables share rows.
        known = row in [other for _, _, other in ROWS]
        if row.prune == 'before' and not row.widths_of and not known:
            ROWS.append((table, name, row))
LARGE = 'resnet56', 'vgg16'


@pytest.mark.parametrize(
    'row',
    [
        pytest.param(
            row,
            id=f'{table}-{name}',
            marks=[pytest.mark.slow] if table in LARGE else [],
        )
        for table, name, row in ROWS
    ],
)
def test_rows_from_scratch_have_their_budget(row):
    built = build(row, 10, seed=0)
    assert built.pruner is None
    beside = flops(built.model)
    merge_bypasses(built.model.eval())
    left = flops(built.model) / built.dense
    merged = 'bypass' in row.settings and 'unit' not in row.settings
    assert (beside > flops(built.model)) == merged
    if row.method:
        # Widths are whole numbers, down to six.
        assert left == pytest.approx(
            0.403 if row.beside else row.target, abs=0.035
        )
    # What training costs: branches count, and no run beyond dense training.
    assert built.wide == pytest.approx(beside / built.dense)
    # A teacher's forward is a third of a dense step.
    step = built.wide + (1 / 3 if row.teacher else 0)
    if row.equal_cost:
        assert 0.85 * 10 < built.epochs * step <= 10


def test_the_stream_of_the_tables_is_that_of_the_stem():
    """Which the rows that are measured left alone by its name."""
    built = build(TABLES['headline']['lapp-inner'], 1, 0)
    model = classifier(DEPTH, 0)
    named = attach(model, EXAMPLE, scope=SCOPE, ignore=STREAM)
    assert built.pruner.by_group(built.pruner.gate).keys() == set(
        named.by_group(named.gate)
    )


def test_rows_begin_with_the_same_weights():
    rows = TABLES['ingredients']
    plain, branched, other = (
        build(rows[name], 1, seed).model.state_dict()
        for name, seed in (('uniform', 3), ('asymmetric', 3), ('uniform', 4))
    )
    assert all(torch.equal(branched[name], plain[name]) for name in plain)
    name = 'backbone.conv1.weight'
    assert not torch.equal(other[name], plain[name])


def test_equal_cost_is_longer_by_what_is_saved():
    plain, spent, taught = (
        build(TABLES['headline'][name], 20, 0)
        for name in ('lapp', 'lapp-cost', 'lapp-inner-distilled-cost')
    )
    assert plain.epochs == 20
    # 20 = k (0.1 * 20 + 0.403 * 0.9 * 20), rounded down
    assert spent.epochs == int(20 / (0.1 + 0.9 * 0.403))
    # A teacher's forward is a third of every dense step.
    assert taught.epochs == int(20 / (0.1 + 0.9 * 0.403 + 1 / 3))
    assert plain.pruner.phase == Phase.DENSE


def test_random_rates_are_others_with_every_seed():
    row = TABLES['headline']['random']

    def shapes(seed):
        state = build(row, 1, seed).model.state_dict()
        return [tuple(tensor.shape) for tensor in state.values()]

    assert shapes(0) == shapes(0) != shapes(1)


def test_widths_of_another_row():
    pruner = build(TABLES['headline']['lapp'], 1, 0).pruner
    widths = {g.name: g.size // 2 for g in pruner.groups}
    pruner.set_mask(first_channels(pruner, widths))
    assert widths_of(pruner) == widths
    built = build(TABLES['headline']['lapp-scratch'], 1, 0, widths)
    convolutions = [
        m.out_channels
        for m in built.model.modules()
        if isinstance(m, torch.nn.Conv2d)
    ]
    # The first of each block, behind the stem.
    assert convolutions[1::2] == [8] * 3 + [16] * 3 + [32] * 3
