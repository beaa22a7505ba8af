# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.criteria import files
from mmlapp.engine.criteria.files import check_out, write_study
from mmlapp.engine.criteria.page import page_of


def test_a_page_and_json_beside_it(study, tmp_path):
    page, found = write_study(study, tmp_path / 'new' / 'a.html')
    assert page.read_text('utf-8') == page_of(study)
    assert found == tmp_path / 'new' / 'a.json'
    assert json.loads(found.read_text()) == study.to_dict()
    assert sorted(p.name for p in page.parent.iterdir()) == [
        'a.html',
        'a.json',
    ]


def test_a_page_that_cannot_be_made_leaves_the_old_files(
    study, tmp_path, monkeypatch
):
    (tmp_path / 'a.json').write_text('old')

    def fail(study):
        raise RuntimeError

    monkeypatch.setattr(files, 'page_of', fail)
    with pytest.raises(RuntimeError):
        write_study(study, tmp_path / 'a.html')
    assert (tmp_path / 'a.json').read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['a.json']


def test_what_cannot_be_written_is_named(tmp_path, study, monkeypatch):
    with pytest.raises(PruningError, match=r"out='.*a\.json': .*of a page"):
        check_out(tmp_path / 'a.json')
    (tmp_path / 'b.html').mkdir()
    with pytest.raises(PruningError, match=r"b\.html' is a folder"):
        check_out(tmp_path / 'b.html')
    (tmp_path / 'file').touch()
    with pytest.raises(PruningError, match='cannot be written to'):
        check_out(tmp_path / 'file' / 'a.html')

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied', '.tmp')

    monkeypatch.setattr(files, 'replace_text', refuse)
    text = r"out='.*c\.html': its folder .*\(Permission denied\)"
    with pytest.raises(PruningError, match=text):
        write_study(study, tmp_path / 'c.html')


def test_a_read_only_folder_is_found_before_anything_is_computed(
    tmp_path, monkeypatch
):
    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Read-only file system')

    monkeypatch.setattr(files.tempfile, 'TemporaryFile', refuse)
    with pytest.raises(PruningError, match=r'\(Read-only file system\)'):
        check_out(tmp_path / 'a.html')
