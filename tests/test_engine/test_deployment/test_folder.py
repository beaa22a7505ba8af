# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import errno
import os
from pathlib import Path

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.deployment import folder as module
from mmlapp.engine.deployment.folder import check_folder, staged_folder

FILES = 'a.py', 'a.pth', 'a.plan.json'


def fill(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize('force', [False, True])
def test_missing_and_empty_folders_are_free(tmp_path, force):
    check_folder(tmp_path / 'new' / 'deep', force)
    check_folder(fill(tmp_path / 'empty'), force)


def test_a_file_is_in_the_way(tmp_path):
    (tmp_path / 'out').write_text('')
    with pytest.raises(PruningError, match='is a file; name a folder'):
        check_folder(tmp_path / 'out', force=True)


def test_a_former_deployment_needs_force(tmp_path):
    out = fill(tmp_path / 'out', *FILES)
    with pytest.raises(PruningError, match=r'holds a\.plan\.json; .*--force'):
        check_folder(out, force=False)
    check_folder(out, force=True)


@pytest.mark.parametrize(
    'others', [('b.py',), ('a.py', 'a.pth'), (*FILES, 'b.pth')]
)
def test_force_removes_nothing_else(tmp_path, others):
    out = fill(tmp_path / 'out', *others)
    with pytest.raises(PruningError, match='which is of no deployment'):
        check_folder(out, force=True)


def test_a_disk_without_room_for_a_folder(tmp_path, monkeypatch):
    def fail(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'mkdir', fail)
    text = r"out='.*out' cannot be written \(No space left on device\)"
    with (
        pytest.raises(PruningError, match=text),
        staged_folder(tmp_path / 'out'),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['out', 'new/deep/out'])
def test_the_folder_appears_as_a_whole(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    out = Path(name)
    with staged_folder(out) as folder:
        fill(folder, *FILES)
        assert not out.exists()
    assert names(out) == set(FILES)
    assert names(tmp_path) == {out.parts[0]}


def test_a_former_folder_is_replaced_as_a_whole(tmp_path):
    out = fill(tmp_path / 'out', 'old')
    with staged_folder(out) as folder:
        fill(folder, *FILES)
    assert names(out) == set(FILES)
    assert names(tmp_path) == {'out'}


@pytest.mark.parametrize('error', [KeyboardInterrupt, PruningError])
def test_after_an_error_all_is_as_before(tmp_path, error):
    out = fill(tmp_path / 'out', 'old')

    def write():
        with staged_folder(out) as folder:
            fill(folder, 'a.py')
            raise error

    with pytest.raises(error):
        write()
    assert names(out) == {'old'}
    assert names(tmp_path) == {'out'}


def test_if_moving_fails_the_former_folder_is_back(tmp_path, monkeypatch):
    out = fill(tmp_path / 'out', 'old')
    rename = Path.rename

    def fail(path, target):
        if path.suffix == '.tmp':
            raise OSError('disk')
        return rename(path, target)

    monkeypatch.setattr(Path, 'rename', fail)
    with pytest.raises(OSError, match='disk'), staged_folder(out) as folder:
        fill(folder, 'a.py')
    assert names(out) == {'old'}
    assert names(tmp_path) == {'out'}


def test_two_processes_never_share_a_temporary_folder(tmp_path):
    """Nor two threads of one process."""
    out = tmp_path / 'out'
    with staged_folder(out) as first, staged_folder(out) as second:
        assert first != second
        fill(first, 'a.py')
        fill(second, 'b.py')
    assert names(out) == {'a.py'}
    assert names(tmp_path) == {'out'}


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    """Known before a model is built; here for root as well."""

    def refuse(folder):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(module, 'try_folder', refuse)
    text = f"out='{tmp_path}/a/b': {tmp_path} cannot .*Permission denied"
    with pytest.raises(PruningError, match=text):
        check_folder(tmp_path / 'a' / 'b', force=False)


def test_a_file_above_the_folder(tmp_path):
    (tmp_path / 'a').write_text('')
    with pytest.raises(PruningError, match=r"out='.*/a/b/c': .*/a is a file"):
        check_folder(tmp_path / 'a' / 'b' / 'c', force=True)
