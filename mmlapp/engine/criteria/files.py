# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The files of a study: a page, and JSON beside it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mmlapp.core import PruningError
from mmlapp.core.files import replace_text

from .page import page_of
from .study import Study


def check_out(path: str | Path) -> None:
    """Refuses a page that cannot be written, before anything is computed.

    Args:
        path (str or Path): Of the page; its folder is made.

    Raises:
        PruningError: With the path.
    """
    path = Path(path)
    said = f'out={str(path)!r}'
    if path.suffix != '.html':
        raise PruningError(
            f'{said}: expected the name of a page, such as criteria.html; '
            'the JSON is written beside it'
        )
    if path.is_dir():
        raise PruningError(f'{said} is a folder: name a file in it')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(said, error) from error


def write_study(study: Study, path: str | Path) -> tuple[Path, Path]:
    """Writes a study as a page, and as JSON beside it.

    Each is there as a whole or not at all.

    Args:
        study (Study): What was found.
        path (str or Path): Of the page, ``.html``.

    Returns:
        tuple[Path, Path]: The page and the JSON.

    Raises:
        PruningError: If they cannot be written.
    """
    check_out(path)
    path = Path(path)
    found = path.with_suffix('.json')
    # Both are made before one of them is written.
    data = json.dumps(study.to_dict(), indent=1, allow_nan=False) + '\n'
    page = page_of(study)
    try:
        replace_text(found, data)
        replace_text(path, page)
    except OSError as error:
        raise _unwritable(f'out={str(path)!r}', error) from error
    return path, found


def _unwritable(said: str, error: OSError) -> PruningError:
    return PruningError(
        f'{said}: its folder cannot be written to ({error.strerror}). Give '
        'another one'
    )
