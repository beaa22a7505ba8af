# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from html_page import Page


@pytest.fixture
def report(load_tool, capsys):
    """Runs the tool; returns its standard output."""
    tool = load_tool('report')

    def run(*argv):
        tool.main([str(arg) for arg in argv])
        return capsys.readouterr().out

    return run


@pytest.fixture
def work_dir(tmp_path):
    """Of a dense run that logged two losses."""
    path = tmp_path / 'run' / '20260101_000000' / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    rows = [{'loss': 1 / i, 'iter': i, 'step': i} for i in (1, 2)]
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return tmp_path / 'run'


def test_the_page_lies_in_the_folder_of_the_run(report, work_dir):
    assert report(work_dir) == f'wrote {work_dir / "report.html"}\n'
    page = Page((work_dir / 'report.html').read_text('utf-8'))
    page.check_alone()
    assert 'Run run' in page.texts


def test_or_where_it_is_asked_for(report, work_dir, tmp_path):
    report(work_dir, '--out', tmp_path / 'new' / 'a.html')
    assert (tmp_path / 'new' / 'a.html').exists()
    assert not (work_dir / 'report.html').exists()


@pytest.mark.parametrize(
    ('argv', 'text'),
    [
        (['{}/nowhere'], "nowhere': there is no such folder"),
        (['{}'], 'no run has logged anything there'),
        (['{}/run', '--out', '{}/a.pdf'], 'such as report.html'),
        (['{}', '--out', '{}/new/a.html'], 'no run has logged'),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    report, work_dir, tmp_path, argv, text
):
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(SystemExit) as info:
        report(*(arg.format(tmp_path) for arg in argv))
    assert info.value.code.startswith('error: ')
    assert text in info.value.code
    assert '\n' not in info.value.code
    assert sorted(tmp_path.rglob('*')) == before
