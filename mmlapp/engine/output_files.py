# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files that a command line names for what is found: whole, or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmlapp.core import PruningError
from mmlapp.core.files import is_stream, json_text, replace_file


def check_output(argument: str, path: str | Path) -> None:
    """Refuses a file that cannot be written, before anything is computed.

    Args:
        argument (str): Name of the argument, for the error text.
        path (str or Path): The file.

    Raises:
        PruningError: With the path, and what is wrong with it.
    """
    path, said = Path(path), f'{argument}={str(path)!r}'
    # To ask may fail, too: names have a longest length.
    with writing(argument, path):
        if is_stream(path):
            return
        if path.is_dir():
            raise PruningError(f'{said} is a folder; name a file')
        place = behind_links(path)
        check_folder_of(argument, place)
        try_folder(place.absolute().parent)


def behind_links(path: Path) -> Path:
    """Returns the file that a link names, and any other path itself.

    Args:
        path (Path): The file; a device or a pipe is no link.
    """
    if path.is_symlink() and not is_stream(path):
        # Unlike Path.resolve it takes links that lead to themselves.
        return Path(os.path.realpath(path))
    return path


def check_folder_of(argument: str, path: Path) -> None:
    """Refuses a file of a folder that is not there.

    Args:
        argument (str): Name of the argument, for the error text.
        path (Path): The file.

    Raises:
        PruningError: With the path.
    """
    if not path.absolute().parent.is_dir():
        raise PruningError(
            f'{argument}={str(path)!r}: there is no folder {path.parent}; '
            'make it'
        )


def check_apart(
    argument: str, path: str | Path, others: Iterable[str | Path | None]
) -> None:
    """Refuses to write over a file that is read, or written for another use.

    Args:
        argument (str): Name of the argument, for the error text.
        path (str or Path): The file.
        others (Iterable[str or Path]): Other files of the command line; None
            stands for one that was not given.

    Raises:
        PruningError: With the path.
    """
    for other in others:
        # Links and relative paths name the same file as well.
        if other is not None and Path(path).resolve() == Path(other).resolve():
            raise PruningError(
                f'{argument}={str(path)!r} is {str(other)!r}, which this call '
                'has another use for; name another file'
            )


def try_folder(folder: str | Path) -> None:
    """Writes into a folder, and leaves nothing there.

    Args:
        folder (str or Path): A folder that is there.

    Raises:
        OSError: If it cannot be written to.
    """
    # Tried, for rights, quotas and file systems that are read-only have no
    # flag in common.
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_output(
    argument: str, path: str | Path, write: Callable[[Path], object]
) -> None:
    """Writes a file in one step.

    Args:
        argument (str): Name of the argument, for the error text.
        path (str or Path): The file.
        write (Callable): Is given the path of a temporary file to write.

    Raises:
        PruningError: If it cannot be written; nothing is left then.
    """
    with writing(argument, path):
        replace_file(path, write)


def write_json(argument: str, path: str | Path, data: Any) -> None:
    """Writes plain data as JSON in one step.

    Args:
        argument (str): Name of the argument, for the error text.
        path (str or Path): The file.
        data (Any): See :func:`mmlapp.core.files.json_text`.

    Raises:
        PruningError: See :func:`write_output`.
    """
    text = f'{json_text(data, 1)}\n'
    write_output(argument, path, lambda file: file.write_text(text, 'utf-8'))


@contextmanager
def writing(argument: str, path: str | Path) -> Iterator[None]:
    """Says what a user is to know of a file that cannot be written.

    Args:
        argument (str): Name of the argument, for the error text.
        path (str or Path): The file, or a folder.

    Raises:
        PruningError: In place of an OSError of what is done meanwhile.
    """
    try:
        yield
    except OSError as error:
        # Errors that no call of the system made have no strerror.
        raise PruningError(
            f'{argument}={str(path)!r} cannot be written '
            f'({error.strerror or error}). Nothing was left; make room, or '
            'choose another folder'
        ) from error
