# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A latency table that is being measured, in a file to go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlapp.core import PruningError
from mmlapp.core.files import replace_text
from mmlapp.core.plan.reading import parse_json

from .setting import difference
from .subject import Procedure
from .timing import Timing

# Seconds of a call, far beyond any.
LONGEST = 1e9


def _timing(pair: Sequence[float]) -> Timing:
    """Median and p90; 0 is what a clock says that is too coarse."""
    median, p90 = pair
    for value in pair:
        # By type, not isinstance: True is an int to Python.
        if type(value) not in (int, float) or not 0 <= value < LONGEST:
            raise ValueError(f'{value!r} is no time')
    return Timing(float(median), float(p90))


class PartialTable:
    """What is measured so far, by kind of layer.

    Args:
        path (str or Path, optional): The file. None: nothing is written.
        setting (Mapping[str, Any]): What it holds for.
        procedure (Procedure): How it is measured.

    Raises:
        PruningError: If the file is of something else, is damaged or cannot
            be written.
    """

    def __init__(
        self,
        path: str | Path | None,
        setting: Mapping[str, Any],
        procedure: Procedure,
    ) -> None:
        self.path = None if path is None else Path(path)
        # With the rounds, for medians of fewer are less sure.
        self.setting = {**setting, 'rounds': procedure.rounds}
        self.times: dict[str, list[Timing]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)
        # Before anything is measured: a folder may not be written to.
        self._write()

    def _read(self, path: Path) -> None:
        what = f'partial file {str(path)!r}'
        try:
            data = parse_json(path.read_text('utf-8'), what)
            found = dict(data['setting'])
            times = {
                str(key): [_timing(pair) for pair in pairs]
                for key, pairs in data['times'].items()
            }
        except (
            *(OSError, KeyError, AttributeError),
            *(TypeError, ValueError),  # UnicodeDecodeError is one
        ) as error:
            raise PruningError(
                f'{what} cannot be read ({error}): remove it'
            ) from error
        differs = difference(found, self.setting)
        if differs:
            raise PruningError(
                f'{what} was begun for something else ({differs}): remove '
                'it, or choose another --out'
            )
        self.times = times

    def get(self, key: str, count: int) -> list[Timing] | None:
        """Times of a kind of layer; None if it is not measured.

        Args:
            key (str): The kind.
            count (int): How many times there must be.
        """
        found = self.times.get(key)
        # One time for each width: others are of another grid, or damaged.
        return found if found is not None and len(found) == count else None

    def put(self, key: str, timings: Sequence[Timing]) -> None:
        """Adds those of a kind of layer.

        Args:
            key (str): The kind.
            timings (Sequence[Timing]): Its times.
        """
        self.times[key] = list(timings)
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        times = {
            key: [(t.median, t.p90) for t in timings]
            for key, timings in self.times.items()
        }
        # Whole each time: a line that was cut short could not be told from an
        # entry.
        text = json.dumps({'setting': self.setting, 'times': times})
        try:
            replace_text(self.path, text)
        except OSError as error:
            raise PruningError(
                f'partial file {str(self.path)!r} cannot be written '
                f'({error.strerror}): make room, or choose another --out'
            ) from error
