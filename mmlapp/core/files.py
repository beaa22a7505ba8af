# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside it, then renames it.

    Whatever happens, there is either the old file or the new one.

    Args:
        path (str or Path): The file.
        write (Callable): Is given the temporary name to write to.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        write(temporary)
        with temporary.open('rb') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: str | Path, text: str) -> None:
    """Writes a text file in one step.

    Args:
        path (str or Path): The file.
        text (str): Its content.
    """
    replace_file(path, lambda temporary: temporary.write_text(text, 'utf-8'))
