# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Below them a name is what a process has open, or a device.
STREAMS = '/dev/', '/proc/'
# What `temporary_path` makes: whose it is, and the process that writes it.
TEMPORARY = re.compile(r'\..*\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.tmp')


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside it, then renames it.

    Whatever happens, there is either the old file or the new one. Several
    processes may write the same file: each has a name of its own. Behind a
    link it is the file that is replaced, and a device or a pipe is written to.

    Args:
        path (str or Path): The file.
        write (Callable): Is given the temporary name to write to.
    """
    path = Path(path)
    if is_stream(path):
        with TemporaryDirectory() as folder:
            whole = Path(folder, path.name)
            write(whole)
            with whole.open('rb') as file, path.open('wb') as stream:
                shutil.copyfileobj(file, stream)
        return
    path = Path(os.path.realpath(path))
    temporary = temporary_path(path)
    try:
        write(temporary)
        with temporary.open('rb') as file:
            # On disk before it has the name: a crash may otherwise leave the
            # name and no content.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_stream(path: str | Path) -> bool:
    """Whether a path names a device, a pipe or what a process has open.

    Args:
        path (str or Path): Such as ``/dev/stdout``.

    Examples:
        >>> is_stream('/dev/null'), is_stream('/tmp')
        (True, False)
    """
    path = Path(path)
    if str(path.absolute()).startswith(STREAMS):
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


def replace_text(path: str | Path, text: str) -> None:
    """Writes a text file in one step.

    Args:
        path (str or Path): The file.
        text (str): Its content.
    """
    replace_file(path, lambda temporary: temporary.write_text(text, 'utf-8'))


def json_text(data: Any, indent: int | None = None) -> str:
    """Returns plain data as JSON that every program reads.

    Args:
        data (Any): Numbers, texts, lists and dictionaries. NaN and infinity,
            for which JSON has no words, become null.
        indent (int, optional): Blanks per level. Defaults to None: all on
            one line, without blanks.

    Examples:
        >>> json_text({'error': [0.5, float('nan')]})
        '{"error":[0.5,null]}'
    """
    return json.dumps(
        _finite(data),
        indent=indent,
        allow_nan=False,
        separators=(',', ':') if indent is None else None,
    )


def _finite(value: Any) -> Any:
    """The same with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def temporary_path(path: Path) -> Path:
    """Returns a name beside a file that no other process or thread has.

    Args:
        path (Path): The file or folder.
    """
    # A name may have 255 bytes, of which a character takes up to four.
    own = f'{_machine()}-{os.getpid()}-{secrets.token_hex(4)}'
    return path.with_name(f'.{path.name[:48]}.{own}.tmp')


def remove_leftovers(folder: str | Path) -> None:
    """Removes files that processes left that were killed while they wrote.

    Args:
        folder (str or Path): Where :func:`replace_file` wrote.
    """
    for path in leftovers(folder):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def leftovers(folder: str | Path) -> Iterator[Path]:
    """Yields what processes left that were killed while they wrote.

    What a process is still writing is none, nor is what another machine
    wrote, whose processes are not known here.

    Args:
        folder (str or Path): In which names of :func:`temporary_path` are.
    """
    for path in Path(folder).glob('.*.tmp'):
        found = TEMPORARY.fullmatch(path.name)
        if found and found[1] == _machine() and not _runs(int(found[2])):
            yield path


def _machine() -> str:
    """Tells machines apart, and containers with numbers of their own."""
    space = Path('/proc/self/ns/pid')
    number = space.stat().st_ino if space.exists() else 0
    return f'{zlib.crc32(f"{platform.node()} {number}".encode()):08x}'


def _runs(process: int) -> bool:
    try:
        # Signal 0 reaches nobody.
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    # It is there, and of another user.
    except PermissionError:
        pass
    return True
