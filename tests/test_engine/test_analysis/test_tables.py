# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import io
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmlapp.core import ChannelPlan, attach
from mmlapp.core.plan.kept import Kept
from mmlapp.engine.analysis.layer_report import LayerReport
from mmlapp.engine.analysis.model_report import ModelReport
from mmlapp.engine.analysis.tables import (
    figures_table,
    groups_table,
    layers_table,
    short_number,
    totals_table,
    widths_table,
)
from mmlapp.engine.deployment.figures import Figure
from mmlapp.engine.terminal import console

LAYER = LayerReport('stem', 'Conv2d', 3, 8, 1500, 0.75, (1, 2), 8, None)
REPORT = ModelReport(
    settings=dict(input_shape=[3, 4, 5]),
    layers=[LAYER],
    groups={'stem': 6, 'stem#2': 2},
    floors={'stem': 3, 'stem#2': 1},
    heads={},
    flops=2000,
    mmengine_flops=2000,
    bypass_flops=0,
    prunable_share=0.75,
    minimum=0.125,
    uncounted={'batch_norm': 1000, 'max_pool2d': 234},
    foreign={},
    unknown={},
)


def rows(table):
    """The cells of every line below the head, without the frame."""
    file = io.StringIO()
    console(file).print(table)
    return [
        [cell.strip() for cell in line.split('│')[1:-1]]
        for line in file.getvalue().splitlines()
        if '│' in line
    ]


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (0, '0'),
        (7.25, '7.25'),
        (999, '999'),
        (1000, '1k'),
        (1234, '1.23k'),
        (40_817_664, '40.8M'),
        (999_499, '999k'),
        (999_500, '1M'),
        (999.9, '1k'),
        (5e9, '5G'),
        (2.5e12, '2.5T'),
    ],
)
def test_three_digits_and_a_letter(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize('value', [999.4, 999.5, 999.6, 999_999, 999_999_999])
def test_no_exponent_beside_a_letter(value):
    assert 'e' not in short_number(value)


def test_figures():
    found = rows(
        figures_table(
            [Figure('FLOPs', 4000, 1000, 0.3), Figure('bytes', 512, 256)]
        )
    )
    assert found == [
        ['FLOPs', '4k', '1k', '25.00%', '30.00%'],
        ['bytes', '512', '256', '50.00%', ''],
    ]


@pytest.mark.parametrize(
    ('change', 'cells'),
    [
        ({}, ['stem', '3 → 8', '1.5k', '75.00%', '1, 2', 'yes']),
        (dict(inputs=None), ['stem', '', '1.5k', '75.00%', '1, 2', 'yes']),
        (
            dict(groups=(), prunable=0, reason='a single channel'),
            ['stem', '3 → 8', '1.5k', '75.00%', '', 'no: a single channel'],
        ),
        (
            dict(groups=(4,), prunable=0, reason='stripes alone'),
            ['stem', '3 → 8', '1.5k', '75.00%', '4', 'stripes alone'],
        ),
        (
            dict(groups=(4,), prunable=5, reason='ignored by the user'),
            [
                *('stem', '3 → 8', '1.5k', '75.00%', '4'),
                '5 of 8: ignored by the user',
            ],
        ),
        (
            dict(groups=(), prunable=0),
            ['stem', '3 → 8', '1.5k', '75.00%', '', ''],
        ),
    ],
)
def test_layers(change, cells):
    report = replace(REPORT, layers=[replace(LAYER, **change)])
    assert rows(layers_table(report)) == [cells]


def test_what_was_not_run_and_how_the_rest_was_reached():
    report = replace(
        REPORT,
        notes=['two notes', 'of one line'],
        reach={'a': 'through x', 'b': 'as a copy of c', 'd': 'through x'},
    )
    assert rows(totals_table(report))[-4:] == [
        ['not run', 'two notes'],
        ['not run', 'of one line'],
        ['reached through x', 'a, d'],
        ['reached as a copy of c', 'b'],
    ]


def test_a_long_name_is_folded_not_cut():
    name = 'backbone.' + 'stage.' * 40 + 'conv'
    report = replace(REPORT, layers=[replace(LAYER, name=name)])
    found = rows(layers_table(report))
    assert len(found) > 1
    assert ''.join(row[0] for row in found) == name


def test_totals():
    assert rows(totals_table(REPORT)) == [
        ['FLOPs at 3x4x5', '2,000 (2k)'],
        ['prunable share of the FLOPs', '75.00%'],
        ['reachable minimum', '12.50%'],
        ['prunable groups', '2, with 8 channels'],
        ['not counted: norms, pooling ...', '1,234 (1.23k)'],
        ['not counted: foreign operators', 'none'],
        ['operators without a rule', 'none'],
    ]


@pytest.mark.parametrize(
    ('change', 'row'),
    [
        (
            dict(mmengine_flops=1999),
            ['FLOPs, counted by MMEngine', '1,999 (2k)'],
        ),
        (dict(bypass_flops=500), ['added by bypasses', '500 (500), 25.00%']),
        (
            dict(foreign='not known (RuntimeError: x)'),
            ['not counted: foreign operators', 'not known (RuntimeError: x)'],
        ),
        (
            dict(foreign={'nms': 2, 'roi_align': 1}),
            ['not counted: foreign operators', 'nms (x2), roi_align (x1)'],
        ),
        (
            dict(unknown={'aten::fold': 3}),
            ['operators without a rule', 'aten::fold (x3)'],
        ),
    ],
)
def test_totals_that_are_told_if_there_are_any(change, row):
    assert row not in rows(totals_table(REPORT))
    assert row in rows(totals_table(replace(REPORT, **change)))


def test_a_count_that_is_missing_is_no_row():
    report = replace(REPORT, mmengine_flops=None)
    assert rows(totals_table(report)) == rows(totals_table(REPORT))


def test_groups_have_the_numbers_of_the_layers():
    found = rows(groups_table(REPORT))
    assert found == [['1', 'stem', '6', '3'], ['2', 'stem#2', '2', '1']]


def test_heads_are_told_from_channels():
    report = replace(REPORT, heads={'stem#2': 16})
    assert rows(groups_table(report))[1] == [
        '2',
        'stem#2',
        '2 heads of 16',
        '1',
    ]
    assert ['prunable groups', '2, with 6 channels and 2 heads'] in rows(
        totals_table(report)
    )


def test_heads_before_and_after():
    plan = ChannelPlan({'a': Kept(12, range(7))}, {}, heads={'a': 64})
    assert rows(widths_table(plan)) == [['a', '12 → 7 heads', '58.3%']]


def test_widths_before_and_after():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.set_mask(torch.arange(8) < 3)
    assert rows(widths_table(pruner.plan())) == [['0', '8 → 3', '37.5%']]
