# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import errno
import os
import signal
from pathlib import Path

import pytest

from mmlapp.core import PruningError
from mmlapp.core.files import temporary_path
from mmlapp.engine.deployment import folder as module
from mmlapp.engine.deployment.folder import (
    check_folder,
    settle_leftovers,
    staged_folder,
)

FILES = 'a.py', 'a.pth', 'a.plan.json'
OTHER_FILES = 'b.py', 'b.pth', 'b.plan.json'


def fill(folder, *names, text='old'):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(text)
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


def texts(folder):
    """What is in all files but those of calls that were killed."""
    return {
        path.name: path.read_text()
        for path in folder.iterdir()
        if path.is_file()
    }


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
    out = fill(tmp_path / 'out', *FILES)
    with staged_folder(out, force=True) as folder:
        fill(folder, *OTHER_FILES)
    assert names(out) == set(OTHER_FILES)
    assert names(tmp_path) == {'out'}


@pytest.mark.parametrize('former', [(), FILES])
def test_a_folder_that_is_there_stays_it(tmp_path, former):
    """It may be a mount point, have an owner, and be where a shell is."""
    out = fill(tmp_path / 'out', *former)
    out.chmod(0o2770)
    before = out.stat()
    with staged_folder(out, force=True) as folder:
        assert folder.parent == out
        fill(folder, *FILES, text='new')
    assert texts(out) == dict.fromkeys(FILES, 'new')
    assert names(out) == set(FILES)
    for name in ('st_ino', 'st_mode', 'st_uid'):
        assert getattr(out.stat(), name) == getattr(before, name)


@pytest.mark.parametrize('former', [None, (), FILES])
def test_a_link_stays_one(tmp_path, former):
    """Also one to a folder that is yet to be made."""
    target, link = tmp_path / 'disk' / 'out', tmp_path / 'link'
    target.parent.mkdir()
    if former is not None:
        fill(target, *former)
    link.symlink_to('disk/out')
    check_folder(link, force=True)
    with staged_folder(link, force=True) as folder:
        assert folder.is_relative_to(target.parent)
        fill(folder, *FILES, text='new')
    assert link.is_symlink()
    assert texts(target) == dict.fromkeys(FILES, 'new')
    assert names(tmp_path) == {'disk', 'link'}
    assert names(target.parent) == {'out'}


def test_the_working_directory(tmp_path, monkeypatch):
    out = fill(tmp_path / 'out')
    monkeypatch.chdir(out)
    with staged_folder(Path('.')) as folder:
        fill(folder, *FILES)
    assert Path.cwd() == out
    assert names(Path('.')) == set(FILES)


def test_the_root_is_a_folder_as_others_are():
    with pytest.raises(PruningError, match="out='/' exists and holds"):
        check_folder(Path('/'), force=False)


@pytest.mark.parametrize('name', ['a.py', 'notes.txt'])
def test_what_others_wrote_meanwhile_stays(tmp_path, name):
    out = fill(tmp_path / 'out')

    def write():
        with staged_folder(out) as folder:
            fill(folder, *FILES, text='new')
            fill(out, name)

    with pytest.raises(PruningError, match=f'holds {name}'):
        write()
    assert texts(out) == {name: 'old'}
    assert names(out) == {name}


@pytest.mark.parametrize('error', [KeyboardInterrupt, PruningError])
@pytest.mark.parametrize('former', [(), FILES])
def test_after_an_error_all_is_as_before(tmp_path, error, former):
    out = fill(tmp_path / 'out', *former)

    def write():
        with staged_folder(out, force=True) as folder:
            fill(folder, 'a.py', text='new')
            raise error

    with pytest.raises(error):
        write()
    assert texts(out) == dict.fromkeys(former, 'old')
    assert names(out) == set(former)
    assert names(tmp_path) == {'out'}


def stop_at(monkeypatch, number, stop):
    """Lets as many files be moved, then stops; returns how many are left."""
    rename, left = Path.rename, [number]

    def counted(path, target):
        left[0] -= 1
        if left[0] == -1:
            stop()
        return rename(path, target)

    monkeypatch.setattr(Path, 'rename', counted)
    return left


def full_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


FORMERS = pytest.mark.parametrize('former', [(), FILES, OTHER_FILES])


@FORMERS
@pytest.mark.parametrize(
    ('stop', 'error'),
    [(full_disk, PruningError), (interrupt, KeyboardInterrupt)],
)
def test_wherever_moving_stops_all_is_as_before(
    tmp_path, monkeypatch, former, stop, error
):
    out = fill(tmp_path / 'out', *former)
    for number in range(len(former) + 3):
        with monkeypatch.context() as patch:
            stop_at(patch, number, stop)
            with (
                pytest.raises(error),
                staged_folder(out, force=True) as folder,
            ):
                fill(folder, *FILES, text='new')
        assert texts(out) == dict.fromkeys(former, 'old')
        assert names(out) == set(former)


def test_what_cannot_be_moved_back_is_kept(tmp_path, monkeypatch):
    out = fill(tmp_path / 'out', *FILES)
    rename = Path.rename

    def fail(path, target):
        if path.parent != out:
            full_disk()
        return rename(path, target)

    monkeypatch.setattr(Path, 'rename', fail)
    with (
        pytest.raises(PruningError, match=r'former holds what .*out held bef'),
        staged_folder(out, force=True) as folder,
    ):
        fill(folder, *FILES, text='new')
    kept = {path.name for path in folder.glob('former/*')} | set(texts(out))
    assert kept == set(FILES)


def in_a_process_that_is_killed(work):
    """Returns whether it was; what it did not reach leaves no trace."""
    process = os.fork()
    if not process:
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


@FORMERS
def test_a_later_call_puts_right_what_was_killed(
    tmp_path, monkeypatch, former
):
    """Also where what puts it right is killed, and called again."""
    out = fill(tmp_path / 'out', *former)
    old, new = dict.fromkeys(former, 'old'), dict.fromkeys(FILES, 'new')

    def write(number):
        stop_at(monkeypatch, number, kill)
        with staged_folder(out, force=True) as folder:
            fill(folder, *FILES, text='new')

    def settle(number):
        stop_at(monkeypatch, number, kill)
        settle_leftovers(out)

    for number in range(len(former) + 3):
        for again in range(6):
            assert in_a_process_that_is_killed(lambda n=number: write(n))
            # Some of the former or some of the new, and never of both.
            there = texts(out).items()
            assert there <= old.items() or there <= new.items()
            in_a_process_that_is_killed(lambda n=again: settle(n))
            settle_leftovers(out)
            assert texts(out) == old
            assert names(out) == set(former)
    # Once all are moved, they stay.
    monkeypatch.setattr(module.shutil, 'rmtree', lambda *args, **kw: kill())
    assert in_a_process_that_is_killed(lambda: write(-1))
    monkeypatch.undo()
    settle_leftovers(out)
    assert texts(out) == new
    assert names(out) == set(FILES)


@pytest.mark.parametrize('there', [False, True])
def test_a_call_that_was_killed_while_it_wrote(tmp_path, there):
    out = tmp_path / 'out'
    if there:
        fill(out)

    def write():
        with staged_folder(out) as folder:
            fill(folder, 'a.py')
            kill()

    assert in_a_process_that_is_killed(write)
    # What is hidden is of no deployment, and in nobody's way.
    check_folder(out, force=False)
    assert len(names(out if there else tmp_path) - {'out'}) == 1
    settle_leftovers(out)
    assert names(tmp_path) == ({'out'} if there else set())
    assert not there or not names(out)


def test_what_is_being_written_stays(tmp_path):
    out = fill(tmp_path / 'out')
    mine = fill(temporary_path(out / 'out'))
    settle_leftovers(out)
    assert names(out) == {mine.name}


@pytest.mark.parametrize('there', [False, True])
def test_of_two_processes_the_first_one_wins(tmp_path, there):
    """Nor do two threads of one process share a temporary folder."""
    out = tmp_path / 'out'
    if there:
        fill(out)

    def write():
        with staged_folder(out) as first, staged_folder(out) as second:
            assert first != second
            fill(first, *FILES)
            fill(second, *OTHER_FILES)

    with pytest.raises(PruningError, match=r'exists and holds|not empty'):
        write()
    assert names(out) == set(OTHER_FILES)
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
