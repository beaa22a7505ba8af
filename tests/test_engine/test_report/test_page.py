# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from html_page import Page
from report_runs import HEAD, PHASE, benchmark, start, state, training

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


def test_settings_are_told_as_a_person_would(work_dir):
    said = {
        'scope': ['backbone', '<neck>'],
        'bypass': None,
        'method': {'type': 'own', 'rule': {'type': 'fast', 'rate': 2}},
    }
    start(work_dir, '1', records=[{**HEAD, 'settings': said}])
    found = page(work_dir)
    for text in ('backbone, <neck>', 'none', 'own (rule=fast (rate=2))'):
        assert text in found.texts


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


@pytest.mark.parametrize('method', ['uniform', {'type': 'soft'}])
def test_a_method_without_thresholds_says_so(work_dir, method):
    head = {**HEAD, 'settings': {'method': method}}
    states = [{**s, 'shown': {'alive': [0.5, 0.25]}} for s in PHASE]
    start(work_dir, '1', records=[head, *states])
    found = page(work_dir)
    name = method if isinstance(method, str) else method['type']
    assert f'The method {name} has no thresholds' in found.shown
    assert 'class="fan"' not in found.text
    assert found.texts.count('0.25 → 0.25') == 1
    assert 'No loss was logged' in found.shown


def test_what_is_not_finite_is_warned_of(work_dir):
    rows = training(1, 20)
    rows[1]['loss'] = float('nan')
    start(work_dir, '1', rows)
    assert 'loss is not finite in 1 of 4 records' in page(work_dir).shown


def test_a_cost_that_is_not_finite_is_said_to_be(work_dir):
    odd = {**PHASE[0], 'ratios': {'flops': None}}
    start(work_dir, '1', records=[HEAD, odd])
    assert 'not finite, target 100.00%' in page(work_dir).texts


def test_a_loss_that_is_never_finite_is_no_chart(work_dir):
    rows = [{**row, 'loss': float('inf')} for row in training(1, 20)]
    start(work_dir, '1', rows)
    assert page(work_dir).text.count('class="chart"') == 1


def test_layers_that_stay_whole_are_folded(work_dir):
    whole = [state(0, (8, 4)), state(20, (4, 4), 'finished')]
    start(work_dir, '1', records=[HEAD, *whole])
    found = page(work_dir)
    assert 'Layers that kept all outputs: 2' in found.texts
    assert found.texts.count('stem') >= 2
    # Ranks are told to be ranks.
    assert 'spread evenly by definition' in found.shown


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


def test_a_unit_that_changes_no_width_tells_its_parts(work_dir):
    """Whatever is left of groups that are no channels."""
    states = [{**s, 'widths': PHASE[0]['widths']} for s in PHASE]
    start(work_dir, '1', records=[{**HEAD, 'unit': 'stripes'}, *states])
    found = page(work_dir)
    assert 'Layers that kept all outputs: 3' in found.texts
    assert 'Groups that lose stripes and no outputs.' in found.texts
    assert 'stripes of 2 groups' in found.texts
    assert '5 of 8 stripes of stem are left' in found.text
    assert '8 of 8 outputs of stem are left' in found.text


@pytest.mark.parametrize('unit', ['channels', 'filters'])
def test_what_widths_tell_is_not_told_twice(work_dir, unit):
    start(work_dir, '1', records=[{**HEAD, 'unit': unit}, *PHASE])
    assert 'and no outputs' not in page(work_dir).shown
