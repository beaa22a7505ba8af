# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.criteria import files
from mmlapp.engine.criteria.files import write_study
from mmlapp.engine.criteria.page import page_of


def test_a_page_and_json_beside_it(study, tmp_path):
    page, found = write_study(study, tmp_path / 'new' / 'a.html')
    assert page.read_text('utf-8') == page_of(study)
    assert found == tmp_path / 'new' / 'a.json'
    assert json.loads(found.read_text()) == study.to_dict()


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


def test_the_name_of_no_page_is_refused(study, tmp_path):
    with pytest.raises(PruningError, match=r'a\.json.* JSON is .* beside it'):
        write_study(study, tmp_path / 'a.json')
