# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The files that one process of a run left, line by line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mmlapp.core import PruningError

from ..training.history import NAME, VERSION, history_files
from .records import check_record

SCALARS = 'vis_data/scalars.json'
# What MMEngine notes beside what was measured.
TIMES = 'time', 'data_time', 'step', 'iter', 'epoch'
# More iterations than a run may have, far from where an axis overflows.
MOST = 2**53
# What no axis can show, like infinity: JSON has integers of any length.
LARGEST = 1e300
# What MMEngine logs as it resumes, and at every record of training.
RESUMED = re.compile(r' - INFO - resumed epoch: \d+, iter: (\d+)$')
TRAINS = re.compile(r' - INFO - (Epoch|Iter)\(train\)')
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """What was logged from one start of a run to its end or its next start.

    Args:
        name (str): Of the folder, the time of the start.
        training (list[Row]): Records of training, with ``iter``.
        validation (list[tuple[int, Row]]): Records of validation, each with
            the iteration of the last record before it.
        records (list[Row]): What was noted of pruning.
        broken (int): Lines that could not be read, such as one that a
            process was killed at.
        logged (int, optional): Iterations that were done before it, as its
            log says. None if that does not tell.
    """

    name: str
    training: list[Row] = field(default_factory=list)
    validation: list[tuple[int, Row]] = field(default_factory=list)
    records: list[Row] = field(default_factory=list)
    broken: int = 0
    logged: int | None = None

    @property
    def begin(self) -> int:
        """Iterations that were done before it."""
        if self.records:
            begin: int = self.records[0]['iter']
            return begin
        if self.logged is not None:
            return self.logged
        return _begin_of(self.training)


def _begin_of(training: Sequence[Row]) -> int:
    """Iterations that were done before a start, by its scalars alone."""
    if not training:
        return 0
    first, epoch = training[0]['iter'], training[0].get('epoch')
    steps = [b['iter'] - a['iter'] for a, b in pairwise(training)]
    # From the beginning to the first record there are no more iterations than
    # between two others. A loop by iterations stays in epoch 1.
    fresh = first <= max(steps) if steps else epoch == 1
    return 0 if fresh and epoch in (None, 1) else first - 1


def read_parts(work_dir: str | Path) -> list[Part]:
    """Reads what every process of a run left, in order of their starts.

    Args:
        work_dir (str or Path): The ``work_dir`` of a run.

    Raises:
        PruningError: If it is none, or a file of it is damaged.
    """
    folder, said = Path(work_dir), f'work_dir={str(work_dir)!r}'
    if not folder.is_dir():
        found = (
            'it is a file' if folder.exists() else 'there is no such folder'
        )
        raise PruningError(f'{said}: {found}; name the work_dir of a run')
    try:
        starts = sorted(path for path in folder.iterdir() if path.is_dir())
        found = [read_part(path) for path in starts if _is_start(path)]
    except OSError as error:
        raise PruningError(
            f'{said} cannot be read ({error.strerror})'
        ) from error
    if not found:
        raise PruningError(
            f'{said}: no run has logged anything there. Expected the work_dir '
            f'of a run, with a folder by its time that has {SCALARS} (of '
            f'LocalVisBackend) or {NAME}'
        )
    return found


def _is_start(folder: Path) -> bool:
    return (folder / SCALARS).is_file() or bool(history_files(folder))


def read_part(folder: Path) -> Part:
    """Reads what one process left.

    Args:
        folder (Path): By the time of its start.

    Raises:
        PruningError: If a record of pruning is none.
    """
    # Validation has its own count, epochs or iterations: where it stands among
    # the records of training tells when it was.
    training, validation, last = [], [], 0
    rows, broken = _lines(folder / SCALARS)
    for row in rows:
        if any(key.startswith('pruning/') for key in row):
            continue  # the records of pruning have more
        if not _is_count(row.get('iter', row.get('step'))):
            broken += 1
        elif 'iter' in row:
            training.append(row)
            last = row['iter']
        else:
            validation.append((last, row))
    records: list[Row] = []
    # Several, of runs that were started within a second.
    for path in history_files(folder):
        own, more = _lines(path)
        broken += more
        # Checks of a record need the groups and layers of its run.
        head: Row = {}
        for record in own:
            head = record if record.get('kind') == 'run' else head
            _check(record, head, path)
        records += own
    return Part(
        folder.name, training, validation, records, broken, _logged(folder)
    )


def _logged(folder: Path) -> int | None:
    """Iterations that were done before a start, as its log says."""
    for path in sorted(folder.glob('*.log')):
        with path.open(encoding='utf-8', errors='replace') as file:
            for line in file:
                if found := RESUMED.search(line):
                    return int(found[1])
                # It trains, and has told of no checkpoint to go on from.
                if TRAINS.search(line):
                    return 0
    return None


def _is_count(value: object) -> bool:
    """Whether a value can be the number of an iteration or epoch."""
    return type(value) is int and 0 <= value < MOST


def _lines(path: Path) -> tuple[list[Row], int]:
    """The objects of a file of JSON lines, and how many lines are none."""
    if not path.is_file():
        return [], 0
    rows, broken = [], 0
    for line in path.read_text('utf-8', errors='replace').splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken += bool(line.strip())
    return rows, broken


def _check(record: Row, head: Row, path: Path) -> None:
    """Refuses what :class:`RunHistory` did not write.

    Args:
        record (Mapping): Any.
        head (Mapping): What its run began with, empty if that is missing.
        path (Path): The file.
    """
    kind = record.get('kind')
    # Before the entries: a later version may have others.
    if record is head and kind == 'run' and record.get('version') != VERSION:
        raise PruningError(
            f'{path} is of version {record.get("version")!r}: this release '
            f'reads version {VERSION}. Use the release that wrote it'
        )
    try:
        check_record(record, head)
    except PruningError as error:
        raise PruningError(
            f'{path} is damaged: a record of kind {kind!r:.80} is incomplete '
            f'or out of place ({error}). Remove the file to see the rest of '
            'the run'
        ) from error


def numbers(row: Row) -> Iterator[tuple[str, float]]:
    """Yields what was measured, by name; NaN where that is no number.

    Args:
        row (Mapping): A record of training or validation.
    """
    for name, value in row.items():
        if name not in TIMES and type(value) in (int, float):
            # NaN is not below either.
            yield name, value if abs(value) < LARGEST else math.nan
