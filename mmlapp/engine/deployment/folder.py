# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A folder that appears as a whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmlapp.core import PruningError
from mmlapp.core.files import temporary_path

from ..output_files import try_folder, writing

PLAN = '.plan.json'
# Of the three files of a deployment, which have one name.
SUFFIXES = '.py', '.pth', PLAN


def check_folder(out: Path, force: bool) -> None:
    """Raises PruningError if a folder must not be written.

    Args:
        out (Path): The folder. One that is missing or empty may be written.
        force (bool): Whether a former deployment may be replaced.
    """
    if out.exists() and not out.is_dir():
        raise PruningError(f'out={str(out)!r} is a file; name a folder')
    above = next(p for p in out.absolute().parents if p.exists())
    if not above.is_dir():
        raise PruningError(
            f'out={str(out)!r}: {above} is a file; choose another folder'
        )
    _check_writable(out)
    found = sorted(p.name for p in out.iterdir()) if out.exists() else []
    if not found:
        return
    if not force:
        raise PruningError(
            f'out={str(out)!r} exists and holds {found[0]}; choose another '
            'folder, or replace a former deployment with --force'
        )
    # They are the whole of a deployment.
    stem = next((f.removesuffix(PLAN) for f in found if f.endswith(PLAN)), '')
    others = set(found) - {f'{stem}{suffix}' for suffix in SUFFIXES}
    if not stem or others:
        raise PruningError(
            f'out={str(out)!r} holds {min(others or found)}, which is of no '
            'deployment, and --force would remove it; choose another folder'
        )


def _anchor(out: Path) -> Path:
    """Beside the folder, since only then is renaming one step."""
    return next(p for p in out.absolute().parents if p.is_dir())


def _check_writable(out: Path) -> None:
    try:
        try_folder(_anchor(out))
    except OSError as error:
        raise PruningError(
            f'out={str(out)!r}: {_anchor(out)} cannot be written to '
            f'({error.strerror}); choose another folder'
        ) from error


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes ``out`` if all goes well.

    A folder that is there is replaced. After an error or an interrupt
    everything is as before.

    Args:
        out (Path): The folder, see :func:`check_folder`.

    Raises:
        PruningError: If nothing can be written beside it.
    """
    out = out.absolute()
    folder = temporary_path(_anchor(out) / out.name)
    with writing('out', out):
        folder.mkdir()
    try:
        yield folder
        _move(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        folder.rename(out)
        return
    # Two renames: one does not replace a folder that is not empty.
    old = folder.with_suffix('.old')
    out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)
