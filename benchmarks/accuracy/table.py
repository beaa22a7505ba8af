# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tables of results, with differences seed by seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from .rows import TABLES
from .run import Result

# What every other row is compared with, where a table has it.
BASES = 'dense', 'uniform'


def by_row(table: str, path: Path) -> dict[str, dict[int, Result]]:
    """Results by row, in the order of the table, and seed.

    Args:
        table (str): Name of the table.
        path (Path): File of its results.
    """
    found: dict[str, dict[int, Result]] = {}
    for result in json.loads(path.read_text('utf-8'))['results']:
        found.setdefault(result['row'], {})[result['seed']] = result
    return {name: found[name] for name in TABLES[table] if name in found}


def report(table: str, path: Path) -> str:
    """A Markdown table of what a file holds.

    Args:
        table (str): Name of the table.
        path (Path): File of its results.
    """
    found = by_row(table, path)
    bases = [name for name in BASES if name in found]
    columns = ['row', 'FLOPs', 'parameters', 'epochs', 'training cost']
    columns += ['seeds', 'top-1', *(f'minus {name}' for name in bases)]
    lines = [columns, [':--', *['--:'] * (len(columns) - 1)]]
    for name, runs in found.items():
        differences = [difference(runs, found[base]) for base in bases]
        lines.append([*cells(name, list(runs.values())), *differences])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def cells(name: str, runs: Sequence[Result]) -> list[str]:
    """The cells of a row before its differences."""

    def mean(key: str) -> float:
        return statistics.mean(run[key] for run in runs)

    accuracies = [run['accuracy'] for run in runs]
    return [
        name,
        f'{100 * mean("flops"):.1f} %',
        f'{mean("parameters") / 1e3:.0f} k',
        f'{mean("epochs"):.0f}',
        f'{100 * mean("cost"):.1f} %',
        f'{len(runs)}',
        with_spread(f'{mean("accuracy"):.2f}', deviation(accuracies)),
    ]


def difference(runs: dict[int, Result], base: dict[int, Result]) -> str:
    """Mean of the differences of equal seeds, and its standard error."""
    seeds = sorted(runs.keys() & base.keys())
    if runs is base or not seeds:
        return ''
    found = [runs[s]['accuracy'] - base[s]['accuracy'] for s in seeds]
    error = deviation(found) / math.sqrt(len(found))
    return with_spread(f'{statistics.mean(found):+.2f}', error)


def with_spread(value: str, spread: float) -> str:
    """A mean with its spread; of a single seed there is none."""
    return value if math.isnan(spread) else f'{value} ± {spread:.2f}'


def deviation(values: Sequence[float]) -> float:
    """Standard deviation; nan of a single value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan
