# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What ``tools/benchmark.py --json`` wrote into the folder of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..benchmark.report import cells
from ..benchmark.rows import Row

# Bytes of a benchmark at most: whatever is larger, such as predictions, is
# something else.
LARGEST = 2**24
# How reading fails of what is damaged or of another tool.
NONE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
)
KNOWN = {field.name for field in fields(Row)}


@dataclass(frozen=True)
class Benchmark:
    """Times of several networks, as they were measured together.

    Args:
        file (str): Name of the file.
        settings (list[str]): Device, threads and versions, by backend.
        notes (list[str]): What to know of it.
        rows (list[tuple[str, list[str]]]): Backend and network, and cells
            by the columns of the tool's table.
    """

    file: str
    settings: list[str]
    notes: list[str]
    rows: list[tuple[str, list[str]]]


def read_benchmarks(work_dir: str | Path) -> list[Benchmark]:
    """Returns all benchmarks in the folder of a run, by name.

    Args:
        work_dir (str or Path): The folder. What is no benchmark is passed
            over, as other tools write JSON too.
    """
    paths = sorted(Path(work_dir).glob('*.json'))
    found = (read_benchmark(path) for path in paths)
    return [benchmark for benchmark in found if benchmark is not None]


def read_benchmark(path: Path) -> Benchmark | None:
    """Reads a benchmark; None if a file is none.

    Args:
        path (Path): The file.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return None
        # No schema: any key that is missing is an error of NONE.
        data = json.loads(path.read_text('utf-8'))
        return Benchmark(
            path.name,
            [_told(setting) for setting in data['settings']],
            [str(note) for note in data['notes']],
            [_row(entry) for entry in data['rows']],
        )
    except NONE:
        return None


def _row(entry: Mapping[str, Any]) -> tuple[str, list[str]]:
    # Fields of a later release are passed over.
    row = Row(**{k: v for k, v in entry.items() if k in KNOWN})
    return f'{row.backend}, {row.name}', cells(row)


def _told(setting: Mapping[str, Any]) -> str:
    versions = ' '.join(f'{k} {v}' for k, v in setting['versions'].items())
    threads, batch = setting['threads'], setting['batch']
    return (
        f'{setting["backend"]} on {setting["device"]}, threads: {threads}, '
        f'images at once: {batch}, {versions}'
    )
