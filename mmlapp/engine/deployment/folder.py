# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A folder that gets a deployment as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmlapp.core import PruningError
from mmlapp.core.files import TEMPORARY, leftovers, temporary_path

from ..output_files import try_folder, writing

PLAN = '.plan.json'
# Of the three files of a deployment, which have one name.
SUFFIXES = '.py', '.pth', PLAN
# In a staged folder: the files that its own ones take the place of.
FORMER = 'former'


def check_folder(out: Path, force: bool) -> None:
    """Raises PruningError if a folder must not be written.

    Args:
        out (Path): The folder. One that is missing or empty may be written.
        force (bool): Whether a former deployment may be replaced.
    """
    place = _behind_links(out)
    if place.exists() and not place.is_dir():
        raise PruningError(f'out={str(out)!r} is a file; name a folder')
    above = next(p for p in (place, *place.parents) if p.exists())
    if not above.is_dir():
        raise PruningError(
            f'out={str(out)!r}: {above} is a file; choose another folder'
        )
    _check_writable(out)
    found = sorted(p.name for p in _content(place)) if place.exists() else []
    if not found:
        return
    if not force:
        raise PruningError(
            f'out={str(out)!r} exists and holds {found[0]}; choose another '
            'folder, or replace a former deployment with --force'
        )
    others = set(found) - _files_of(found)
    if others:
        raise PruningError(
            f'out={str(out)!r} holds {min(others)}, which is of no '
            'deployment, and --force would remove it; choose another folder'
        )


def _behind_links(out: Path) -> Path:
    return Path(os.path.realpath(out))


def _content(place: Path) -> list[Path]:
    """All in a folder but what processes are writing, or left."""
    return [p for p in place.iterdir() if not TEMPORARY.fullmatch(p.name)]


def _files_of(names: Iterable[str]) -> set[str]:
    """Names of the whole of a deployment, by its plan; none without one."""
    plan = next((name for name in names if name.endswith(PLAN)), PLAN)
    stem = plan.removesuffix(PLAN)
    return {f'{stem}{suffix}' for suffix in SUFFIXES} if stem else set()


def _anchor(place: Path) -> Path:
    """Where a temporary folder is made: only nearby renaming is one step.

    In the folder itself if it is there, for it may be all of its file system,
    and keeps its owner, its rights and whoever works in it.
    """
    return next(p for p in (place, *place.parents) if p.is_dir())


def _check_writable(out: Path) -> None:
    anchor = _anchor(_behind_links(out))
    try:
        try_folder(anchor)
    except OSError as error:
        raise PruningError(
            f'out={str(out)!r}: {anchor} cannot be written to '
            f'({error.strerror}); choose another folder'
        ) from error


@contextmanager
def staged_folder(out: Path, force: bool = False) -> Iterator[Path]:
    """Yields a temporary folder whose files become ``out`` if all goes well.

    After an error or an interrupt everything is as before; for a process that
    was killed :func:`settle_leftovers` sees to that.

    Args:
        out (Path): The folder, see :func:`check_folder`. Behind a link it is
            the folder there that is written.
        force (bool): Whether a former deployment may be replaced. Defaults to
            False.

    Raises:
        PruningError: If nothing can be written, or ``out`` must not be any
            more.
    """
    # Now: links and the working directory may change meanwhile.
    place = _behind_links(out)
    anchor = _anchor(place)
    folder = temporary_path(anchor / place.name)
    try:
        with writing('out', out):
            folder.mkdir()
        yield folder
        with writing('out', out):
            _flush(folder)
            if anchor == place:
                _move_files(folder, force)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(place)
    finally:
        _settle(folder)


def settle_leftovers(out: Path) -> None:
    """Puts right what calls left that were killed while they wrote.

    A former deployment is back, or the new one complete.

    Args:
        out (Path): The folder, see :func:`staged_folder`.

    Raises:
        PruningError: If what they had set aside cannot be moved back.
    """
    for folder in leftovers(_anchor(_behind_links(out))):
        _settle(folder)


def _flush(folder: Path) -> None:
    """Waits until files are on disk, before others make room for them."""
    for path in folder.iterdir():
        with path.open('rb') as file:
            os.fsync(file.fileno())


def _move_files(folder: Path, force: bool) -> None:
    """Moves files into the folder above, whose own are set aside first.

    At no time are files of both there.
    """
    out = folder.parent
    # The plan last: by it `_undo` knows the names of the others.
    paths = sorted(folder.iterdir(), key=lambda path: path.name.endswith(PLAN))
    # Others may have written meanwhile.
    check_folder(out, force)
    (folder / FORMER).mkdir()
    for path in _content(out):
        path.rename(folder / FORMER / path.name)
    for path in paths:
        path.rename(out / path.name)


def _settle(folder: Path) -> None:
    """Removes a staged folder; unless all was moved, nothing was."""
    former = folder / FORMER
    # Not by Path, which raises for what other users left.
    if os.path.isdir(former):
        try:
            _undo(folder)
        except OSError as error:
            raise PruningError(
                f'{former} holds what {folder.parent} held before, and it '
                f'cannot be moved back ({error.strerror}); move it there'
            ) from error
    shutil.rmtree(folder, ignore_errors=True)


def _undo(folder: Path) -> None:
    """Undoes `_move_files`, unless it came to its end.

    It may be stopped anywhere, too, and called again.
    """
    out, former = folder.parent, folder / FORMER
    left = {path.name for path in folder.iterdir()} - {FORMER}
    if not left:
        return
    # Not removed: where they are tells what has yet to be done.
    for name in _files_of(left) - left:
        if (out / name).exists():
            (out / name).rename(folder / name)
    for path in former.iterdir():
        path.rename(out / path.name)
    former.rmdir()
