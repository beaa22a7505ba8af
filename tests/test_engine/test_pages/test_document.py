# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from html_page import Page

from mmlapp.engine.pages.document import (
    document,
    row,
    table,
    text_cell,
    warnings_list,
)


def test_a_page_is_whole_and_escapes_names():
    parts = [
        warnings_list(['a & b']),
        table(
            ['<layer>', 'width'], [row('<img src=x>', ['1', text_cell('<p>')])]
        ),
    ]
    page = Page(document('<script>', parts, '.own{color:red}'))
    page.check_alone()
    page.check_fits()
    assert page.texts.count('<script>') == 1
    assert [t for t in page.texts if t in ('<layer>', '<img src=x>')]
    assert 'a & b' in page.texts
    assert '<p>' in page.texts
    assert '.own{color:red}' in page.text


def test_without_warnings_there_is_no_list():
    assert warnings_list([]) == ''
