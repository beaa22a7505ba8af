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


def report(table: str, path: Path) -> str:
    """A Markdown table of what a file holds.

    Args:
        table (str): Name of the table.
        path (Path): File of its results.
    """
    content = json.loads(path.read_text('utf-8'))
    found: dict[str, dict[int, Result]] = {}
    for result in content['results']:
        found.setdefault(result['row'], {})[result['seed']] = result
    bases = [name for name in BASES if name in found]
    columns = ['row', 'FLOPs', 'parameters', 'epochs', 'training cost']
    columns += ['seeds', 'top-1', *(f'minus {name}' for name in bases)]
    lines = [columns, [':--', *['--:'] * (len(columns) - 1)]]
    for name in TABLES[table]:
        if name in found:
            runs = found[name]
            lines.append(
                [
                    *cells(name, list(runs.values())),
                    *(difference(runs, found[base]) for base in bases),
                ]
            )
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
        f'{mean("accuracy"):.2f} ± {deviation(accuracies):.2f}',
    ]


def difference(runs: dict[int, Result], base: dict[int, Result]) -> str:
    """Mean of the differences of equal seeds, and its standard error."""
    seeds = sorted(runs.keys() & base.keys())
    if runs is base or not seeds:
        return ''
    found = [runs[s]['accuracy'] - base[s]['accuracy'] for s in seeds]
    error = deviation(found) / math.sqrt(len(found))
    return f'{statistics.mean(found):+.2f} ± {error:.2f}'


def deviation(values: Sequence[float]) -> float:
    """Standard deviation; nan of a single value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan
