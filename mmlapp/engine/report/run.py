# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a run did, over all its starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from .files import Part, Row, numbers, read_parts
from .latency import Benchmark, read_benchmarks

# (iteration or epoch, value), ascending.
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """What a run did.

    Args:
        name (str): Of its folder.
        starts (list[tuple[str, int]]): When training began and was resumed,
            with the iterations that were done before.
        training (dict[str, Points]): What was logged of training, by name,
            over iterations.
        validation (dict[str, Points]): Likewise of validation, over epochs
            or iterations.
        by_epoch (bool): Whether validation is counted in epochs.
        head (Mapping): What the run prunes and what it leaves alone, see
            ``docs/training.md``; empty if nothing was noted.
        states (list[Row]): Where pruning stood, in order.
        end (int, optional): Iteration at which training came to its end.
            None if it has not, or if that was not noted.
        last (int): Iteration of the last record.
        broken (int): Lines that could not be read.
        benchmarks (list[Benchmark]): What was measured of its networks.
    """

    name: str
    starts: list[tuple[str, int]]
    training: dict[str, Points]
    validation: dict[str, Points]
    by_epoch: bool
    head: Mapping[str, Any]
    states: list[Row]
    end: int | None
    last: int
    broken: int
    benchmarks: list[Benchmark]

    @property
    def phase(self) -> str | None:
        """``dense``, ``pruning`` or ``finished``; None if nothing is known."""
        if self.states:
            return str(self.states[-1]['phase'])
        return 'dense' if self.head else None


@dataclass
class _Merged:
    """Records by where they stand; what is resumed replaces what follows."""

    starts: list[tuple[str, int]] = field(default_factory=list)
    training: dict[int, Row] = field(default_factory=dict)
    # Iteration of the last record of training before it, and what it says.
    validation: list[tuple[int, Row]] = field(default_factory=list)
    states: dict[int, Row] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    end: int | None = None
    broken: int = 0

    def cut(self, begin: int) -> None:
        """Forgets what a start at an iteration makes undone.

        Args:
            begin (int): The iteration.
        """
        # A run that was resumed has not ended where it had before.
        self.end = None
        # Begun after iteration 400: records 401 and later are made anew, even
        # where the run that was killed had come further.
        self.training = {i: r for i, r in self.training.items() if i <= begin}
        self.states = {i: s for i, s in self.states.items() if i <= begin}
        self.validation = [v for v in self.validation if v[0] <= begin]

    def add(self, part: Part) -> None:
        """Takes over what a process left.

        Args:
            part (Part): Its records.
        """
        self.starts.append((part.name, part.begin))
        self.broken += part.broken
        # Of two records of an iteration the later start counts.
        self.training.update((row['iter'], row) for row in part.training)
        # Before its first record of training a part is where it begins.
        self.validation += [(p or part.begin, r) for p, r in part.validation]
        for record in part.records:
            if record['kind'] == 'run':
                # Resumed after the phase, a run has no settings to note: those
                # of its first start stay.
                self.head.update(record)
            elif record['kind'] == 'state':
                self.states[record['iter']] = record
            else:
                self.end = record['iter']


def read_run(work_dir: str | Path) -> Run:
    """Reads what a run left in its folder.

    Args:
        work_dir (str or Path): The ``work_dir`` of a run, dense or pruned,
            ended or not.

    Raises:
        PruningError: If it is none, or a file of it is damaged.
    """
    merged = _Merged()
    for part in read_parts(work_dir):
        if part.begin <= 0:
            # Another run in the same folder.
            merged = _Merged()
        # First cut, then add: the new part has the same iterations again.
        merged.cut(part.begin)
        merged.add(part)
    return _finished(Path(work_dir), merged)


def _finished(work_dir: Path, merged: _Merged) -> Run:
    training = [merged.training[i] for i in sorted(merged.training)]
    validation, by_epoch = _placed(merged)
    places = [*merged.training, *merged.states, merged.end or 0]
    return Run(
        name=work_dir.resolve().name,
        starts=merged.starts,
        training=_series((row['iter'], row) for row in training),
        validation=_series(validation),
        by_epoch=by_epoch,
        head=merged.head,
        states=[merged.states[i] for i in sorted(merged.states)],
        end=merged.end,
        last=max(places),
        broken=merged.broken,
        benchmarks=read_benchmarks(work_dir),
    )


def _placed(merged: _Merged) -> tuple[list[tuple[int, Row]], bool]:
    """Validations by where they stand, and whether that is an epoch."""
    found, training = merged.validation, merged.training
    # A loop by iterations counts no epochs: at all validations it has done
    # none, while its records of training are of the first.
    same = [
        row['step'] == training[place]['epoch']
        for place, row in found
        if 'epoch' in training.get(place, {})
    ]
    by_epoch = bool(same) and all(same)
    by_iter = any(row['step'] for _, row in found) and all(
        row['step'] >= place for place, row in found
    )
    if by_epoch or by_iter:
        # Of two of an epoch or iteration the later start counts.
        last = {row['step']: row for _, row in found}
        return sorted(last.items(), key=itemgetter(0)), by_epoch
    return sorted(found, key=itemgetter(0)), False


def _series(rows: Iterable[tuple[float, Row]]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for place, row in rows:
        for name, value in numbers(row):
            found.setdefault(name, []).append((place, value))
    return found
