# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tables of results, with differences seed by seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from .rows import TABLES
from .run import Result

# What every other row is compared with, where a table has it.
BASES = 'dense', 'uniform'
COLUMNS = 'FLOPs', 'parameters', 'epochs', 'training cost', 'seeds', 'top-1'


def by_row(rows: Iterable[str], path: Path) -> dict[str, dict[int, Result]]:
    """Results by row, in the order of a table, and seed.

    Args:
        rows (Iterable[str]): Names of the rows.
        path (Path): File of the results; without it there are none.
    """
    if not path.exists():
        return {}
    found: dict[str, dict[int, Result]] = {}
    for result in json.loads(path.read_text('utf-8'))['results']:
        found.setdefault(result['row'], {})[result['seed']] = result
    return {name: found[name] for name in rows if name in found}


def report(table: str, path: Path, bases: Sequence[str] = BASES) -> str:
    """A Markdown table of what a file holds.

    Args:
        table (str): Name of the table.
        path (Path): File of its results.
        bases (Sequence[str]): Rows that the others are compared with, where
            the file has them. Defaults to those of all tables.
    """
    return markdown(by_row(TABLES[table], path), COLUMNS, cells, bases)


def markdown(
    found: Mapping[str, dict[int, Result]],
    columns: Sequence[str],
    cells: Callable[[Sequence[Result]], list[str]],
    bases: Sequence[str] = BASES,
) -> str:
    """A Markdown table with differences to the rows all are compared with.

    Args:
        found (Mapping): Results by row and seed.
        columns (Sequence[str]): Titles of the cells.
        cells (Callable): From the results of a row to its cells.
        bases (Sequence[str]): Those rows, as for :func:`report`.
    """
    bases = [name for name in bases if name in found]
    titles = ['row', *columns, *(f'minus {name}' for name in bases)]
    lines = [titles, [':--', *['--:'] * (len(titles) - 1)]]
    for name, runs in found.items():
        differences = [difference(runs, found[base]) for base in bases]
        lines.append([name, *cells(list(runs.values())), *differences])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def cells(runs: Sequence[Result]) -> list[str]:
    """What is told of a row of the accuracy tables."""

    def mean(key: str) -> float:
        return statistics.mean(run[key] for run in runs)

    accuracies = [run['accuracy'] for run in runs]
    return [
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
    # Of differences: what a seed does to both rows cancels.
    error = deviation(found) / math.sqrt(len(found))
    return with_spread(f'{statistics.mean(found):+.2f}', error)


def with_spread(value: str, spread: float) -> str:
    """A mean with its spread; of a single seed there is none."""
    return value if math.isnan(spread) else f'{value} ± {spread:.2f}'


def deviation(values: Sequence[float]) -> float:
    """Standard deviation; nan of a single value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan
