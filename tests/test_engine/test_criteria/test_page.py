# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from html.parser import HTMLParser

import pytest

from mmlapp.engine.criteria.page import page_of

VOID = {'meta', 'path', 'circle', 'br'}


class Page(HTMLParser):
    """Checks that elements are closed in order, and notes what they hold."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.texts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ('src', 'href', 'xlink')]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def parsed(study):
    page = Page()
    page.text = page_of(study)
    page.feed(page.text)
    page.close()
    return page


def test_it_is_well_formed_and_needs_nothing_else(parsed):
    assert parsed.open == []
    assert parsed.links == []
    assert not {'script', 'link', 'img', 'iframe'} & set(parsed.tags)
    for text in ('http', 'url(', '@import'):
        assert text not in parsed.text


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


def test_counts_of_disputed_channels_add_up(study):
    page = Page()
    page.feed(page_of(study))
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
    assert 'name="viewport"' in parsed.text
    assert 'prefers-color-scheme:dark' in parsed.text
    # What is wider scrolls by itself, and the page does not.
    wide = parsed.text.count('<div class="wide">')
    assert wide == parsed.tags.count('table')
