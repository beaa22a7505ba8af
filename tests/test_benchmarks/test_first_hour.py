# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A newcomer's clone has nothing of this environment; its demo is timed."""

import json
import os
import subprocess

import first_hour
import pytest

MAKEFILE = """\
demo:
	@test -z "$(WHEELS)$(MMLAPP_VENV)" && test -z "$$(ls $$HOME)"
	@echo set up; sleep 0.1
	@echo 'ResNet-20 on the digits{how}'
	@sleep 0.1; echo '   Dense against deployed'; sleep 0.1
	@{last}
"""


def git(folder, *arguments):
    command = ['git', '-C', folder, '-c', 'user.name=a', '-c', 'user.email=b']
    subprocess.run([*command, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """Two commits whose demo says other things, and one that fails."""
    folder = tmp_path / 'repository'
    folder.mkdir()
    git(folder, 'init')
    for tag, how, last in (
        ('before', ': dense, 12 s', 'true'),
        ('after', ', seed 0: both trained, 9 s', 'true'),
        ('bad', '', 'false'),
    ):
        text = MAKEFILE.format(how=how, last=last)
        (folder / 'Makefile').write_text(text)
        git(folder, 'add', '.')
        git(folder, 'commit', '-m', tag)
        git(folder, 'tag', tag)
    return folder


@pytest.mark.parametrize('commit', ['before', 'after'])
def test_the_marks_are_seen_in_their_order(
    repository, tmp_path, monkeypatch, capsys, commit
):
    monkeypatch.setenv('MMLAPP_VENV', '/elsewhere')
    found = first_hour.measure(commit, tmp_path, repository)
    seconds = found['seconds']
    assert seconds['first network trained'] >= 0.1
    assert seconds['first network trained'] + 0.1 <= seconds['first result']
    assert seconds['first result'] + 0.1 <= seconds['end']
    assert 0 < seconds['processor'] < seconds['end'] + 1
    assert 's  set up' in capsys.readouterr().out
    # Nothing is left of the clone.
    assert [path.name for path in tmp_path.iterdir()] == ['repository']


def test_a_demo_that_fails_is_no_result(repository, tmp_path):
    with pytest.raises(SystemExit, match='make demo failed'):
        first_hour.measure('bad', tmp_path, repository)
    assert [path.name for path in tmp_path.iterdir()] == ['repository']


def test_a_newcomer_has_no_cache(tmp_path):
    here = {
        'PATH': '/bin',
        'HOME': '/root',
        'PIP_INDEX_URL': 'url',
        'PIP_CACHE_DIR': 'a',
        'XDG_CACHE_HOME': 'b',
        'OMP_NUM_THREADS': '1',
        'WHEELS': 'c',
    }
    assert first_hour.newcomer(here, tmp_path) == {
        'PATH': '/bin',
        'HOME': str(tmp_path),
        'PIP_INDEX_URL': 'url',
        'PYTHONUNBUFFERED': '1',
    }


def test_results_are_added_and_printed(tmp_path, monkeypatch, capsys):
    file = tmp_path / 'first_hour.json'
    marks = dict.fromkeys(first_hour.MARKS, 61.0)
    seconds = {**marks, 'end': 754.6, 'processor': 1200.0}

    def measure(commit, work_dir):
        return {'commit': commit * 10, 'seconds': seconds}

    monkeypatch.setattr(first_hour, 'measure', measure)
    for commits in ('a', 'b'), ():
        argv = ['first_hour.py', *commits, '--json', str(file)]
        monkeypatch.setattr('sys.argv', argv)
        first_hour.main()
    cores = [result['cores'] for result in json.loads(file.read_text())]
    assert cores == [os.cpu_count()] * 2
    table = capsys.readouterr().out.splitlines()[-4:]
    assert table[0] == (
        '| commit | first network trained | first result | end | processor |'
    )
    assert table[2:] == [
        f'| `{name * 7}` | 1:01 | 1:01 | 12:35 | 20:00 |' for name in 'ab'
    ]
