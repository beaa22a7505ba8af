# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every network in a process of its own, with a time limit."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from mmlapp.core.files import replace_text

from .foreign import LIBRARIES
from .measure import Measurement, measure
from .networks import Entry

Row = dict[str, Any]
FAILED: Row = {'failed': 'not measured yet'}


@dataclass(frozen=True)
class Measure:
    """What is asked of every network.

    Args:
        ask (Callable): Returns the row of an entry: plain data with ``name``
            and ``failed``, which is None of what ran to the end.
        failed (Callable): Returns the row of an entry whose process failed,
            with the reason.
    """

    ask: Callable[[Entry], Row]
    failed: Callable[[Entry, str], Row]


ZOO = Measure(
    lambda entry: measure(entry).to_dict(),
    lambda entry, reason: Measurement(
        entry.name, entry.bar, failed=reason
    ).to_dict(),
)


def run_all(
    entries: Sequence[Entry],
    out: str | Path,
    limit: float = 900,
    progress: Callable[[str, int], None] = lambda name, number: None,
    asked: Measure = ZOO,
) -> list[Row]:
    """Measures networks one after the other and keeps every result.

    Args:
        entries (Sequence[Entry]): The networks.
        out (str or Path): JSON file that is written after every network.
            What ran to the end according to it is not measured again.
        limit (float): Seconds that one network may take. Defaults to 900.
        progress (Callable): Is told the name and the number of every
            network before it is measured.
        asked (Measure): What is measured. Defaults to that of the zoo.

    Returns:
        list[dict]: One row per entry, in order.
    """
    out = Path(out)
    known: dict[str, Row] = {}
    if out.exists():
        rows = json.loads(out.read_text(encoding='utf-8'))
        known = {row['name']: row for row in rows}
    for number, entry in enumerate(entries):
        progress(entry.name, number)
        if known.get(entry.name, FAILED)['failed'] is not None:
            known[entry.name] = run_one(entry, limit, asked)
            _write(out, list(known.values()))
    return [known[entry.name] for entry in entries]


def preload(entries: Sequence[Entry]) -> None:
    """Imports once what the children would have to import every time.

    Args:
        entries (Sequence[Entry]): The networks.
    """
    packages = {e.config.rpartition('::')[0] for e in entries}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for package in sorted(packages - {'', *LIBRARIES}):
            import_module(f'{package}.models')


def _write(out: Path, rows: list[Row]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, json.dumps(rows, indent=1) + '\n')


def run_one(entry: Entry, limit: float, asked: Measure = ZOO) -> Row:
    """Measures one network in a child process.

    Args:
        entry (Entry): The network.
        limit (float): Seconds after which the child is ended.
        asked (Measure): What is measured. Defaults to that of the zoo.
    """
    # Forked children need not import the packages again.
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(entry, theirs, asked))
    child.start()
    theirs.close()
    try:
        if ours.poll(limit):
            row: Row = ours.recv()
            return row
        failed = f'no result within {limit:g} s'
    except EOFError:
        child.join()
        failed = f'the process ended with code {child.exitcode}'
    finally:
        child.terminate()
        child.join()
        ours.close()
    return asked.failed(entry, failed)


def _child(entry: Entry, pipe: Any, asked: Measure) -> None:
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    with open(os.devnull, 'w') as nowhere:
        os.dup2(nowhere.fileno(), 1)
        row = asked.ask(entry)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    row['process_mib'] = usage.ru_maxrss / 1024
    pipe.send(row)
    pipe.close()
