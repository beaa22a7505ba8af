# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
from zoo import markdown, summary
from zoo.measure import Measurement
from zoo.table import own_introduction


def test_the_table():
    rows = [
        Measurement(
            'good',
            0.95,
            1_000_000,
            1.0,
            3,
            24,
            effect=0.7,
            errors={'half': 1e-7},
        ).to_dict(),
        Measurement(
            'bad',
            0.95,
            share=0.5,
            frozen={'a': 3, 'b': 2, 'c': 1, 'd': 1},
            effect=0.7,
            errors={'half': 0.1},
            failed='learn: oh',
        ).to_dict(),
        # Nothing was compared: the outputs do not depend on the masks.
        Measurement(
            'blind', share=0.9, effect=0.0, errors={'half': 0.0}
        ).to_dict(),
    ]
    assert summary(rows) == (
        '3 networks: 2 run all steps, 1 agree to 0.0001, 2 reach their bar.'
    )
    text = markdown(rows)
    assert '| good | 1M | 100.0% | 3 | 24 | 1e-07 |' in text
    assert '| bad |  | **50.0%** |' in text
    assert '| **0.1** |' in text
    assert (
        '## What failed\n\n- bad: `learn: oh`\n\n## Channels that stay\n\n'
        '- bad: a (3); b (2); c (1); 1 other reasons (1)\n'
    ) in text
    assert '## Remarks' not in text
    assert text.startswith('# The model zoo, measured\n')
    assert markdown(rows, '# Mine\n').startswith('# Mine\n\nAll weights')


def test_what_could_not_be_measured_is_told():
    row = Measurement('half', notes=['runs alone', 'not counted']).to_dict()
    text = markdown([row])
    assert text.endswith('## Remarks\n\n- half: runs alone; not counted\n')
    assert '## What failed' not in text


@pytest.mark.parametrize('errors', [[0.0, math.nan], [math.nan, 0.0]])
def test_an_error_that_is_no_number_is_no_agreement(errors):
    row = Measurement('nan', effect=1.0, errors=dict(enumerate(errors)))
    assert '0 agree' in summary([row.to_dict()])
    assert '| **' in markdown([row.to_dict()])


def test_a_list_introduces_itself():
    text = '# Mine\n#\n# All of them,\n# by hand.\n\n# Edge.\na.py 64 # no\n'
    assert own_introduction(text, 'mine.txt', 'mine.json') == (
        '# Mine\n\nAll of them,\nby hand.\n\nMade by\n\n'
        '    python benchmarks/zoo mine.txt --json mine.json\n'
    )


def test_a_list_that_says_nothing():
    text = own_introduction('a.py 64\n', 'mine.txt', 'mine.json')
    assert text.startswith('# Networks, measured\n\nMade by\n')
