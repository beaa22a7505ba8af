# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Notes of other packages that tell a user of our tools nothing.

They are named one by one: whatever else is told is shown.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from mmlapp.core import PruningWarning

# Warnings, by how they begin.
WARNED = (
    # mmdet warns of attributes that its own heads read.
    'DeprecationWarning: `num_anchors` is deprecated',
    # mmdet imports a second evaluator, which no config here names.
    'faster_coco_eval is not installed',
    # mmcv without operators, which classifiers do not need.
    'Fail to import ``MultiScaleDeformableAttention``',
    # mmdet calls torch.meshgrid in the old way, whose result is right.
    'torch.meshgrid: in an upcoming release',
)
# Records of loggers, by how they begin.
LOGGED = (
    # MMEngine calls what MMEngine is going to remove.
    '"FileClient" will be deprecated in future',
    '"HardDiskBackend" is the alias of "LocalBackend"',
    # mmdet has one head, for lanes, that wants mmcv with CUDA.
    'Line NMS is not compiled',
)
# Lines of standard output, by how they begin.
PRINTED = (
    # Data sets of a package that is not public.
    'Could not import OneDL',
    # MMEngine where it has no logger: the file is the one that was asked for.
    'Loads checkpoint by local backend from path',
)


class _Quieter:
    """A stream without the lines that are known.

    Args:
        stream (TextIO): Where everything else goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # Whether a line begins, and whether its text was left out.
        self._begins, self._skipped = True, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what is no known line; ``print`` ends it on its own.

        Args:
            text (str): Part of a line, or several.
        """
        ends, self._skipped = self._skipped and text == '\n', False
        if ends:
            return len(text)
        known = text.startswith(PRINTED) and '\n' not in text[:-1]
        if self._begins and known:
            self._skipped = not text.endswith('\n')
            return len(text)
        self._begins = text.endswith('\n') if text else self._begins
        return self._stream.write(text)


@contextmanager
def known_notes_hidden() -> Iterator[None]:
    """Leaves out what is known, and writes our own warnings in one line.

    What loggers are told is a record of level ``DEBUG`` instead. May stand
    above a function.

    Examples:
        >>> with known_notes_hidden():
        ...     print('Could not import OneDL')
        ...     print('something else')
        something else
    """
    make, form = logging.getLogRecordFactory(), warnings.formatwarning
    streams: list[Any] = [_Quieter(sys.stdout), _Quieter(sys.stderr)]
    with (
        warnings.catch_warnings(),
        redirect_stdout(streams[0]),
        redirect_stderr(streams[1]),
    ):
        for text in WARNED:
            warnings.filterwarnings('ignore', re.escape(text))
        logging.setLogRecordFactory(_demoting(make))
        warnings.formatwarning = _formatting(form)
        try:
            yield
        finally:
            logging.setLogRecordFactory(make)
            warnings.formatwarning = form


def _demoting(
    make: Callable[..., logging.LogRecord],
) -> Callable[..., logging.LogRecord]:
    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        if str(made.msg).startswith(LOGGED):
            made.levelno = logging.DEBUG
            made.levelname = logging.getLevelName(logging.DEBUG)
        return made

    return record


def _formatting(form: Callable[..., str]) -> Callable[..., str]:
    """Where in our code a run was looked at is nothing to a user."""

    def text(
        message: Any, category: type[Warning], *place: Any, **more: Any
    ) -> str:
        if issubclass(category, PruningWarning):
            return f'warning: {message}\n'
        return form(message, category, *place, **more)

    return text
