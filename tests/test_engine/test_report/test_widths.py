# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from html import unescape

import pytest
from html_page import Page
from report_runs import HEAD, PHASE, start, state

from mmlapp.engine.pages.document import NOTHING
from mmlapp.engine.report import widths
from mmlapp.engine.report.run import read_run


def shown(folder, head, states):
    start(folder, '1', records=[head, *states])
    found = Page(''.join(widths.section(read_run(folder))))
    found.check_closed()
    return found


def test_layers_that_stay_whole_are_folded(work_dir):
    whole = [state(0, (8, 4)), state(20, (4, 4), 'finished')]
    found = shown(work_dir, HEAD, whole)
    assert 'Layers that kept all outputs: 2' in found.texts
    assert '8 → 4' in found.texts
    # What was narrow for a while is not folded: it has two pictures.
    assert found.text.count('class="strip"') == 2 * 3


def test_inputs_of_several_groups_are_left_out(work_dir):
    found = shown(work_dir, HEAD, PHASE)
    cells = ['depth', unescape(NOTHING), '4 → 1', '25.0%']
    assert found.texts[-4:] == cells


def test_a_unit_that_changes_no_width_tells_its_parts(work_dir):
    """Whatever is left of groups that are no channels."""
    states = [{**s, 'widths': PHASE[0]['widths']} for s in PHASE]
    found = shown(work_dir, {**HEAD, 'unit': 'stripes'}, states)
    assert 'Layers that kept all outputs: 3' in found.texts
    assert 'Groups that lose stripes and no outputs.' in found.texts
    assert '5 of 8 stripes of stem are left' in found.text
    assert '8 of 8 outputs of stem are left' in found.text


def test_heads_are_told_beside_the_outputs_of_their_layers(work_dir):
    found = shown(work_dir, {**HEAD, 'heads': {'stem': 16}}, PHASE)
    assert 'Groups that lose whole heads of attention.' in found.texts
    assert '5 of 8 heads of stem are left' in found.text
    assert 'heads of &lt;b&gt;' not in found.text


@pytest.mark.parametrize('unit', ['channels', 'filters'])
def test_what_widths_tell_is_not_told_twice(work_dir, unit):
    found = shown(work_dir, {**HEAD, 'unit': unit}, PHASE)
    assert 'and no outputs' not in found.shown


def test_before_the_phase_all_is_whole(work_dir):
    assert 'All layers are whole' in shown(work_dir, HEAD, []).shown
