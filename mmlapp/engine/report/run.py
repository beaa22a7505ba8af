# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a run did, over all its starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
    # Position of the record, and what it says, by epoch or iteration.
    validation: dict[float, tuple[int, Row]] = field(default_factory=dict)
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
        self.validation = {
            step: (place, row)
            for step, (place, row) in self.validation.items()
            if place <= begin
        }

    def add(self, part: Part) -> None:
        """Takes over what a process left.

        Args:
            part (Part): Its records.
        """
        self.starts.append((part.name, part.begin))
        self.broken += part.broken
        # Of two records of an iteration the later start counts.
        self.training.update((row['iter'], row) for row in part.training)
        for place, row in part.validation:
            self.validation[row['step']] = place, row
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
    steps = sorted(merged.validation)
    epochs = [row['epoch'] for row in training if 'epoch' in row]
    places = [*merged.training, *merged.states, merged.end or 0]
    return Run(
        name=work_dir.resolve().name,
        starts=merged.starts,
        training=_series((row['iter'], row) for row in training),
        validation=_series((s, merged.validation[s][1]) for s in steps),
        # Epochs that validation tells are among those of training.
        by_epoch=bool(epochs) and max(steps, default=0) <= max(epochs),
        head=merged.head,
        states=[merged.states[i] for i in sorted(merged.states)],
        end=merged.end,
        last=max(places),
        broken=merged.broken,
        benchmarks=read_benchmarks(work_dir),
    )


def _series(rows: Iterable[tuple[float, Row]]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for place, row in rows:
        for name, value in numbers(row):
            found.setdefault(name, []).append((place, value))
    return found
