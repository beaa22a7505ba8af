# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What tools show on the terminal: results, and what is being done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO

from rich.console import Console

# Of a pipe or file, where nothing tells the width.
PIPE_WIDTH = 160


def console(file: IO[str] | None = None) -> Console:
    """Returns a console that does not cut lines of a pipe or file.

    Args:
        file (IO, optional): Where it writes. Defaults to standard output.
    """
    file = file or sys.stdout
    width = None if file.isatty() else PIPE_WIDTH
    # Without colours for numbers, which would differ from column to column.
    # Names of files and layers may have brackets and colons, [a] and :a:, that
    # are neither colours nor pictures.
    return Console(
        file=file, width=width, highlight=False, markup=False, emoji=False
    )


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Shows on standard error what a tool is doing, the config first.

    Standard output is for results: what importing models and datasets prints
    goes to standard error, too.

    Yields:
        Callable: Takes what is done next.
    """
    shown = console(sys.stderr).status('reading the config')
    with shown as status, redirect_stdout(sys.stderr):
        yield status.update
