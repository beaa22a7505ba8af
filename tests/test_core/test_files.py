# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmlapp.core.files import (
    json_text,
    leftovers,
    remove_leftovers,
    replace_file,
    replace_text,
    temporary_path,
)


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    path.write_text('old')

    def interrupted(temporary: Path) -> None:
        temporary.write_text('ne')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, interrupted)
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]
    replace_file(path, lambda temporary: temporary.write_text('new') and None)
    assert path.read_text() == 'new'


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    """At any time there is a whole file of one of them."""
    path = tmp_path / 'last_checkpoint'
    texts = {str(i) * 5000 for i in range(8)}
    replace_text(path, '0' * 5000)

    def write(text: str) -> set[str]:
        seen = set()
        for _ in range(25):
            replace_text(path, text)
            seen.add(path.read_text())
        return seen

    with ThreadPoolExecutor(8) as pool:
        seen = set().union(*pool.map(write, texts))
    assert seen <= texts
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_words_but_those_of_json() -> None:
    nan, most = float('nan'), 1e308
    data = {'a': [nan, most, (-math.inf,)], 'b': {'c': math.inf}, 'd': 'NaN'}
    found = json.loads(json_text(data), parse_constant=pytest.fail)
    assert found == {'a': [None, most, [None]], 'b': {'c': None}, 'd': 'NaN'}
    assert math.isnan(data['a'][0])
    assert json_text({'a': [1]}, 1) == '{\n "a": [\n  1\n ]\n}'


def test_names_that_are_long(tmp_path: Path) -> None:
    for name in ('a' * 255, '\N{SNOWMAN}' * 85):
        replace_text(tmp_path / name, 'whole')
        assert (tmp_path / name).read_text() == 'whole'


def test_only_leftovers_of_dead_processes_go(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, '-S', '-c', ''])
    ended.wait()
    mine = temporary_path(tmp_path / 'a.pth')
    dead = mine.name.replace(f'-{os.getpid()}-', f'-{ended.pid}-')
    # Process 1 runs, and may not be ours.
    others = mine.name.replace(f'-{os.getpid()}-', '-1-')
    machine, foreign = mine.name.split('.')[3][:8], '0' * 8
    elsewhere = dead.replace(machine, foreign)
    unknown = '.a.pth.tmp'
    keep = {mine.name, others, elsewhere, unknown}
    for name in (*keep, dead):
        (tmp_path / name).write_bytes(b'half')
    # Of a deployment into the folder of a run, for example.
    folder = dead.replace('.a.pth.', '.out.')
    (tmp_path / folder).mkdir()
    found = {path.name for path in leftovers(tmp_path)}
    assert found == {dead, folder}
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*keep, folder}
