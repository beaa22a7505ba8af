# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from html_page import Page
from report_runs import HEAD, PHASE, start

from mmlapp.engine.report import scores
from mmlapp.engine.report.run import read_run


def shown(folder, head, states):
    start(folder, '1', records=[head, *states])
    found = Page(''.join(scores.section(read_run(folder))))
    found.check_closed()
    return found


@pytest.mark.parametrize('method', ['uniform', {'type': 'soft'}])
def test_a_method_without_thresholds_says_so(work_dir, method):
    states = [{**s, 'shown': {'alive': [0.5, 0.25]}} for s in PHASE]
    found = shown(work_dir, {**HEAD, 'settings': {'method': method}}, states)
    name = method if isinstance(method, str) else method['type']
    assert f'The method {name} has no thresholds' in found.shown
    assert 'class="fan"' not in found.text
    assert found.texts.count('0.25 → 0.25') == 1


def test_every_group_has_a_picture_and_its_widths(work_dir):
    found = shown(work_dir, HEAD, PHASE)
    assert found.text.count('class="fan"') == 2
    assert '8 → 5, threshold 1 among scores of 0 to 1' in found.texts
    assert 'scores of stem: median from 0.5 to 0.5' in found.text


def test_heads_are_called_so(work_dir):
    found = shown(work_dir, {**HEAD, 'heads': {'stem': 16}}, PHASE)
    assert '8 → 5 heads, threshold 1 among scores of 0 to 1' in found.texts
    assert '4 → 1, ' in found.shown


@pytest.mark.parametrize('normalisation', ['rank', 'mean'])
def test_ranks_are_told_to_be_ranks(work_dir, normalisation):
    settings = {**HEAD['settings'], 'normalisation': normalisation}
    found = shown(work_dir, {**HEAD, 'settings': settings}, PHASE)
    told = 'spread evenly by definition' in found.shown
    assert told == (normalisation == 'rank')
