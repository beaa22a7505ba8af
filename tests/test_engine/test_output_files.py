# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import errno
import json
import math
import os
from pathlib import Path

import pytest

from mmlapp.core import PruningError
from mmlapp.engine import output_files
from mmlapp.engine.output_files import (
    check_apart,
    check_output,
    write_json,
    write_output,
)


def test_a_file_that_can_be_written(tmp_path):
    path = tmp_path / 'speed.json'
    check_output('json', path)
    assert not list(tmp_path.iterdir())
    write_json('json', path, {'error': math.nan})
    assert json.loads(path.read_text()) == {'error': None}


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('none/a.json', "json='.*none/a.json': there is no folder .*none; m"),
        ('', "json='.*' is a folder; name a file"),
        (300 * 'x', r"json='.*x' cannot be written \(File name too long\)"),
    ],
)
def test_what_cannot_be_a_file(tmp_path, name, text):
    with pytest.raises(PruningError, match=text):
        check_output('json', tmp_path / name)


def test_a_file_that_is_read_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = tmp_path / 'run.py'
    read.touch()
    (tmp_path / 'link').symlink_to(read)
    check_apart('json', tmp_path / 'speed.json', [read, None, 'mmdet::a.py'])
    for path in (read, 'run.py', './run.py', 'link'):
        with pytest.raises(PruningError, match=r"json='.*' is '.*run.py', wh"):
            check_apart('json', path, [None, read])


def test_a_disk_that_is_read_only(tmp_path, monkeypatch):
    def fail(**settings):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(output_files.tempfile, 'TemporaryFile', fail)
    with pytest.raises(PruningError, match=r"out='.*a' .*\(Read-only file s"):
        check_output('out', tmp_path / 'a')


def test_a_disk_that_is_full_leaves_the_former_file(tmp_path):
    path = tmp_path / 'a'
    path.write_text('former')

    def fill(file):
        file.write_text('half')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(PruningError, match=r'\(No space left on device\). No'):
        write_output('out', path, fill)
    assert [p.read_text() for p in tmp_path.iterdir()] == ['former']


def test_a_link_stays_one(tmp_path):
    path, link = tmp_path / 'shared.json', tmp_path / 'link.json'
    path.write_text('former')
    link.symlink_to(path.name)
    check_output('json', link)
    write_json('json', link, [1])
    assert link.is_symlink()
    assert json.loads(path.read_text()) == [1]


def test_where_a_link_leads_is_what_is_asked(tmp_path, monkeypatch):
    """Before anything is computed, which may take hours."""
    (tmp_path / 'a.json').symlink_to(tmp_path / 'gone' / 'b.json')
    with pytest.raises(PruningError, match=r'is no folder .*gone; make'):
        check_output('json', tmp_path / 'a.json')
    (tmp_path / 'gone').mkdir()
    tried = []
    monkeypatch.setattr(output_files, 'try_folder', tried.append)
    check_output('json', tmp_path / 'a.json')
    assert tried == [tmp_path / 'gone']


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    check_output('json', pipe)
    # It takes so little without a reader.
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_json('json', pipe, [1])
    assert json.loads(os.read(end, 100)) == [1]
    os.close(end)
    assert pipe.is_fifo()


def test_a_device_stays_one(tmp_path):
    """As what `--json /dev/stdout` names."""
    path = tmp_path / 'a'
    with path.open('wb') as file:
        name = f'/dev/fd/{file.fileno()}'
        check_output('json', name)
        write_json('json', name, [1])
    assert json.loads(path.read_text()) == [1]
    with pytest.raises(PruningError, match='No space left on device'):
        write_json('json', '/dev/full', [1])
    assert Path('/dev/full').is_char_device()
