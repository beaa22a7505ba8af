# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.core import PruningError
from mmlapp.engine.pages import files
from mmlapp.engine.pages.files import check_out, write_page


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_page_and_what_is_beside_it(tmp_path):
    paths = write_page(tmp_path / 'a.html', 'page', {'.json': '{}'})
    assert paths == [tmp_path / 'a.html', tmp_path / 'a.json']
    assert [path.read_text('utf-8') for path in paths] == ['page', '{}']
    assert names(tmp_path) == ['a.html', 'a.json']


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    with pytest.raises(PruningError, match=r"out='.*a\.json': .* a\.html"):
        check_out(tmp_path / 'a.json', 'a.html')
    (tmp_path / 'b.html').mkdir()
    with pytest.raises(PruningError, match=r"b\.html' is a folder"):
        check_out(tmp_path / 'b.html', 'a.html')
    (tmp_path / 'file').touch()
    with pytest.raises(PruningError, match='cannot be written '):
        check_out(tmp_path / 'file' / 'a.html', 'a.html')

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied', '.tmp')

    monkeypatch.setattr(files, 'replace_text', refuse)
    text = r"out='.*c\.html' cannot be written \(Permission denied\)"
    with pytest.raises(PruningError, match=text):
        write_page(tmp_path / 'c.html', 'page')


def test_without_what_belongs_to_it_there_is_no_page(tmp_path, monkeypatch):
    def refuse(path, text):
        assert path.suffix == '.json'
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(files, 'replace_text', refuse)
    with pytest.raises(PruningError, match='No space left'):
        write_page(tmp_path / 'a.html', 'page', {'.json': '{}'})
    assert names(tmp_path) == []


def test_where_a_link_leads_a_folder_is_made(tmp_path):
    link, page = tmp_path / 'a.html', tmp_path / 'pages' / 'b.html'
    link.symlink_to(page)
    check_out(link, 'a.html')
    assert write_page(link, 'page') == [link]
    assert page.read_text('utf-8') == 'page'
    assert link.is_symlink()


def test_a_read_only_folder_is_found_before_anything_is_computed(
    tmp_path, monkeypatch
):
    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Read-only file system')

    monkeypatch.setattr(files, 'try_folder', refuse)
    with pytest.raises(PruningError, match=r'\(Read-only file system\)'):
        check_out(tmp_path / 'a.html', 'a.html')
