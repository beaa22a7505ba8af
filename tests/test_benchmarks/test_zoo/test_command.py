# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from zoo.command import listed, main, parse_args
from zoo.table import markdown

ROOT = Path(__file__).parents[3]


def test_a_list_is_measured(tmp_path, entry, capsys):
    source, out = tmp_path / 'list.txt', tmp_path / 'new' / 'mine.json'
    source.write_text(f'# Mine\n{entry.config} 32\n')
    main([str(source), '--json', str(out)])
    (row,) = json.loads(out.read_text())
    assert (row['name'], row['failed']) == ('small', None)
    assert capsys.readouterr().out == (
        '1 networks: 1 run all steps, 1 agree to 0.0001, 1 reach their bar.\n'
    )
    text = out.with_suffix('.md').read_text()
    assert f'    python benchmarks/zoo {source} --json {out}\n' in text
    assert text.startswith('# Mine\n')
    assert '| small |' in text


def test_without_a_list_the_document_is_made_again(tmp_path):
    """Nothing is measured: the result of every network is known."""
    out, docs = tmp_path / 'zoo.json', ROOT / 'docs'
    out.write_bytes((docs / 'zoo.json').read_bytes())
    main(['--json', str(out)])
    text = out.with_suffix('.md').read_text()
    assert text == (docs / 'zoo.md').read_text()


@pytest.mark.parametrize('name', ['libraries', 'detectors'])
def test_documents_of_lists_are_of_their_results(name, monkeypatch):
    """As with the built-in list, where they were measured."""
    monkeypatch.chdir(ROOT)
    source, out = f'benchmarks/{name}.txt', Path(f'docs/{name}.json')
    if not out.exists():
        pytest.skip('not measured yet')
    entries, introduction = listed(source, out)
    rows = {row['name']: row for row in json.loads(out.read_text())}
    text = markdown([rows[e.name] for e in entries], introduction)
    assert text == out.with_suffix('.md').read_text()


def test_the_folder_is_a_script(tmp_path):
    """It finds the package that it is; to import all of it takes long."""
    folder = tmp_path / 'zoo'
    folder.mkdir()
    shutil.copy(ROOT / 'benchmarks' / 'zoo' / '__main__.py', folder)
    (folder / '__init__.py').touch()
    command = 'def main():\n    print(__name__, __package__)\n'
    (folder / 'command.py').write_text(command)
    result = subprocess.run(
        [sys.executable, '-S', str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == 'zoo.command zoo\n'


def test_the_usage_names_the_folder(capsys):
    with pytest.raises(SystemExit):
        parse_args(['--help'])
    assert capsys.readouterr().out.startswith('usage: python benchmarks/zoo ')


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        (None, r'error: .*list\.txt: .*No such file'),
        ('# none', r'error: .*list\.txt: .*names no config'),
    ],
)
def test_errors_are_one_line(tmp_path, text, match):
    source = tmp_path / 'list.txt'
    if text is not None:
        source.write_text(text)
    with pytest.raises(SystemExit, match=match):
        main([str(source), '--json', str(tmp_path / 'out.json')])


def test_results_need_a_file(capsys):
    with pytest.raises(SystemExit):
        parse_args([])
    assert '--json' in capsys.readouterr().err
