# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from html_page import Page

from mmlapp.engine.criteria.page import page_of


@pytest.fixture
def parsed(study):
    return Page(page_of(study))


def test_it_is_well_formed_and_needs_nothing_else(parsed):
    parsed.check_alone()


def test_every_group_score_and_layer_has_its_place(parsed, study):
    shown = ' '.join(parsed.texts)
    for name in study.scores.groups:
        assert f'{name}: channels and correlation' in shown
    for name in study.scores.voters:
        # Rows and columns of five heat maps, two strips, one column.
        assert parsed.texts.count(name) == 2 * 5 + 2 + 1
    # Of the two layers one has equal weights, and so no quantiles.
    assert parsed.tags.count('figure') == 1
    assert parsed.tags.count('circle') == 41


def test_what_a_reader_must_know_is_said(parsed, study):
    shown = ' '.join(parsed.texts)
    assert 'no checkpoint: the weights are random' in shown
    assert 'it wants <batches>' in shown
    assert 'How much do scores differ? <net>' in shown
    assert '50% of the FLOPs' in shown
    assert f'calibration batches: {study.batches}.' in shown


def test_counts_of_disputed_channels_add_up(study):
    page = Page(page_of(study))
    start = page.texts.index('by none') + 1
    for group, size in study.scores.groups.items():
        name, *cells = page.texts[start : start + 5]
        channels, *parts = map(int, cells)
        assert (name, channels) == (group, size)
        assert sum(parts) == size
        assert parts[1] == len(study.scores.disputed(group))
        start += 5
    assert study.scores.disputed('0')


def test_it_fits_a_phone_and_both_themes(parsed):
    parsed.check_fits()
