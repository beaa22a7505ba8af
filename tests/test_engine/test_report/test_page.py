# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from html_page import Page
from report_runs import HEAD, PHASE, benchmark, start, training

from mmlapp.engine.report.page import page_of
from mmlapp.engine.report.run import read_run

SECTIONS = [
    'Loss',
    'Cost',
    'Accuracy',
    'Widths of the layers',
    'Thresholds and scores',
    'What was left alone, and why',
    'Latency',
    'Starts',
]


def page(folder):
    found = Page(page_of(read_run(folder)))
    found.check_alone()
    found.check_fits()
    assert [text for text in found.texts if text in SECTIONS] == SECTIONS
    return found


def test_a_pruned_run(pruned):
    found = page(pruned)
    for text in (
        'Run work <dir>',
        'Training ended at iteration 40; pruned.',
        'lapp (update=balance)',
        '62.50% of dense, target 50.00%',
        '12 → 6',
        '55 at last, highest 60',
        '8 → 5',
        'output of the <network>',
    ):
        assert text in found.texts
    # Two losses, one cost, one metric.
    assert found.text.count('class="chart"') == 4
    assert found.text.count('class="fan"') == 2
    # A row for each of the three layers that became narrow, twice drawn.
    assert found.text.count('class="strip"') == 6
    assert '5 of 8 outputs of stem are left' in found.text
    assert 'threshold from 0 to 1' in found.text
    assert 'as they are' not in found.shown


def test_times_that_were_measured(pruned):
    benchmark(pruned / 'speed.json')
    found = page(pruned)
    assert 'torch, slim' in found.texts
    assert found.texts.count('too noisy') == 2
    assert 'torch on <CPU>, threads: 2' in found.shown
    assert 'Not measured' not in found.shown


def test_names_are_escaped(pruned):
    assert '<b>' not in page(pruned).text.replace('<b>loss', '').replace(
        '<b>FLOPs', ''
    ).replace('<b>accuracy', '')
    assert '<dir>' not in page(pruned).text


def test_a_resumed_run_that_has_not_ended(resumed):
    found = page(resumed)
    assert (
        'Last record at iteration 20 of 40: it runs, or was stopped; pruned.'
    ) in found.texts
    assert '2 lines of the logs could not be read' in found.shown
    assert 'here the run was resumed' in found.shown
    assert found.text.count('class="rule mark" d="M') == 3


def test_a_run_in_its_phase(work_dir):
    start(work_dir, '1', training(1, 10), [HEAD, *PHASE[:2]])
    found = page(work_dir)
    assert 'within its pruning phase, step 10 of 20' in found.shown
    assert 'The run was not validated' in found.shown


def test_a_run_before_its_phase(work_dir):
    start(work_dir, '1', training(1, 10), [HEAD])
    found = page(work_dir)
    assert 'its pruning phase had not begun' in found.shown
    assert 'there are no thresholds yet' in found.shown
    assert 'All layers are whole' in found.shown


def test_a_dense_run(dense):
    found = page(dense)
    assert 'whether it ended is not noted' in found.shown
    assert 'no phase was noted' in found.shown
    assert 'Nothing was noted of pruning' in found.shown
    assert 'That was not noted.' in found.shown
    assert 'class="fan"' not in found.text
    assert found.text.count('class="chart"') == 3


def test_a_loss_that_is_never_finite_is_no_chart(work_dir):
    rows = [{**row, 'loss': float('inf')} for row in training(1, 20)]
    start(work_dir, '1', rows)
    assert page(work_dir).text.count('class="chart"') == 1


def test_a_run_of_a_narrow_network(work_dir):
    head = {k: v for k, v in HEAD.items() if k not in ('settings', 'frozen')}
    known = {
        k: v
        for k, v in PHASE[-1].items()
        if k not in ('done', 'steps', 'shown', 'scores')
    }
    start(work_dir, '1', training(1, 10), [head, {**known, 'iter': 0}])
    found = page(work_dir)
    assert 'was narrow already' in found.shown
    assert 'That was not noted.' in found.shown
    assert '8 → 5' in found.texts
