# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A page as its reader meets it."""

from html.parser import HTMLParser

VOID = {'meta', 'path', 'circle', 'line', 'rect', 'br'}


class Page(HTMLParser):
    """Checks that elements are closed in order, and notes what they hold.

    Args:
        text (str): The page.
    """

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.open, self.tags, self.links, self.texts = [], [], [], []
        self.unlabelled = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ('src', 'href', 'xlink')]
        if tag == 'svg' and not {'aria-label', 'aria-hidden'} & {*dict(attrs)}:
            self.unlabelled.append(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def shown(self):
        """All texts, one after the other."""
        return ' '.join(self.texts)

    def check_closed(self):
        """It is well-formed."""
        assert self.open == []

    def check_alone(self):
        """It is well-formed, needs nothing else, and tells its pictures."""
        self.check_closed()
        assert self.links == []
        assert not {'script', 'link', 'img', 'iframe'} & set(self.tags)
        for text in ('http', 'url(', '@import'):
            assert text not in self.text
        assert self.unlabelled == []

    def check_fits(self):
        """It fits a phone and both themes."""
        assert 'name="viewport"' in self.text
        assert 'prefers-color-scheme:dark' in self.text
        # What is wider scrolls by itself, and the page does not.
        wide = self.text.count('<div class="wide">')
        assert wide == self.tags.count('table')
        # Names stay in sight then.
        assert '.wide tr>:first-child{position:sticky;left:0' in self.text
