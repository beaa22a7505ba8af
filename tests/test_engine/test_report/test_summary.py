# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from report_runs import HEAD, PHASE, start, training

from mmlapp.engine.report.run import read_run
from mmlapp.engine.report.summary import facts, status, warnings_of


def test_what_was_asked_for_and_what_was_reached(pruned):
    assert dict(facts(read_run(pruned))) == {
        'method': 'lapp (update=balance)',
        'score': 'l2',
        'normalisation': 'rank',
        'FLOPs left': '62.50% of dense, target 50.00%',
        'parameters left': '90.00% of dense',
        'channels of 2 groups': '12 → 6',
        'accuracy/top1': '55 at last, highest 60',
    }


def test_heads_are_counted_apart_from_channels(work_dir):
    head = {**HEAD, 'heads': {'stem': 16}}
    start(work_dir, '1', records=[head, *PHASE])
    known = dict(facts(read_run(work_dir)))
    assert known['channels of 1 groups'] == '4 → 1'
    assert known['heads of 1 groups'] == '8 → 5'


def test_settings_are_told_as_a_person_would(work_dir):
    said = {
        'scope': ['backbone', '<neck>'],
        'bypass': None,
        'method': {'type': 'own', 'rule': {'type': 'fast', 'rate': 2}},
    }
    head = {**HEAD, 'settings': said, 'unit': 'stripes'}
    start(work_dir, '1', records=[head])
    assert dict(facts(read_run(work_dir))) == {
        'scope': 'backbone, <neck>',
        'bypass': 'none',
        'method': 'own (rule=fast (rate=2))',
        'stripes of 2 groups': '12',
    }


def test_a_cost_that_is_not_finite_is_said_to_be(work_dir):
    odd = {**PHASE[0], 'ratios': {'flops': None}}
    start(work_dir, '1', records=[HEAD, odd])
    known = dict(facts(read_run(work_dir)))
    assert known['FLOPs left'] == 'not finite, target 100.00%'


def test_what_is_not_finite_is_warned_of(work_dir):
    rows = training(1, 20)
    rows[1]['loss'] = float('nan')
    start(work_dir, '1', rows)
    told = list(warnings_of(read_run(work_dir)))
    assert told == ['loss is not finite in 1 of 4 records']


@pytest.mark.parametrize(
    ('rows', 'records', 'text'),
    [
        (training(1, 10), [], 'whether it ended is not noted; nothing was'),
        ([], [HEAD], 'had not begun'),
        ([], [HEAD, *PHASE[:2]], 'phase, step 10 of 20.'),
        ([], [HEAD, *PHASE], 'iteration 20 of 40: it runs, or was stopped; p'),
        ([], [HEAD, *PHASE, {'kind': 'end', 'iter': 40}], 'ended at iterat'),
    ],
)
def test_how_far_a_run_came(work_dir, rows, records, text):
    start(work_dir, '1', rows, records)
    assert text in status(read_run(work_dir))
