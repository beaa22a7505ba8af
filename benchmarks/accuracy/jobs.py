# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""All rows and seeds of a table, several at once, in a file that grows."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmlapp.core.files import replace_text

from .rows import TABLES
from .run import Result, run
from .training import Recipe

Job = tuple[str, int]


class Store:
    """The results of a table, in a file.

    Args:
        path (Path): The file; what it holds is not run again.
        recipe (Any): How the table is trained, a dataclass.

    Raises:
        ValueError: If the file is of another recipe.
    """

    def __init__(self, path: Path, recipe: Any) -> None:
        self.path = path
        self.recipe = asdict(recipe)
        self.machine = machine()
        self.results: list[Result] = []
        if path.exists():
            known = json.loads(path.read_text('utf-8'))
            if known['recipe'] != self.recipe:
                raise ValueError(
                    f'{path} was trained with {known["recipe"]}, asked is '
                    f'{self.recipe}: give another --out, or the same recipe'
                )
            self.results = known['results']

    def find(self, name: str, seed: int) -> Result | None:
        """The result of a row and a seed, if it is there."""
        for result in self.results:
            if (result['row'], result['seed']) == (name, seed):
                return result
        return None

    def add(self, result: Result) -> None:
        """Writes one more result."""
        self.results.append({**result, 'machine': self.machine})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {'recipe': self.recipe, 'results': self.results}
        replace_text(self.path, json.dumps(content, indent=1) + '\n')


def machine() -> str:
    """What trains, in words."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
    return f'{name}, torch {torch.__version__}'


def run_all(
    table: str,
    rows: Sequence[str],
    seeds: Sequence[int],
    recipe: Recipe,
    data: Path,
    store: Store,
    weights: Path,
    device: str = 'cpu',
    workers: int = 1,
    deadline: float | None = None,
) -> bool:
    """Runs what is not there yet, seed by seed; returns whether all is.

    Args:
        table (str): Name of the table.
        rows (Sequence[str]): Of its rows, in order.
        seeds (Sequence[int]): Of each.
        recipe (Recipe): Of all.
        data (Path): Folder of the images.
        store (Store): Where results go.
        device (str): Where networks are trained.
        weights (Path): Folder for those of teachers.
        workers (int): Processes at once.
        deadline (float, optional): ``time.monotonic()`` at which what still
            runs is given up.
    """
    waiting = [
        (name, seed)
        # All rows of a seed before the next one: what there is when time is up
        # can be compared.
        for seed in seeds
        for name in rows
        if store.find(name, seed) is None
    ]
    # A process that was forked cannot use CUDA.
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(
        workers, context, initializer=torch.set_num_threads, initargs=(1,)
    )
    running: dict[Future[Result], Job] = {}
    failed = False
    while waiting or running:
        for job in ready(table, waiting, store)[: workers - len(running)]:
            waiting.remove(job)
            more = given(table, *job, store, weights)
            running[
                pool.submit(run, table, *job, recipe, data, device, **more)
            ] = job
        if not running:
            break  # what they wait for has failed, or was not asked for
        left = None if deadline is None else deadline - time.monotonic()
        done, _ = wait(running, left, FIRST_COMPLETED)
        for future in done:
            job = running.pop(future)
            error = future.exception()
            if error is None:
                store.add(future.result())
            # The others go on: one row may not fit a device, say.
            failed |= error is not None
            print(*job, error or summary(future.result()), flush=True)
        # Waited to the deadline: what still runs is ended below.
        if not done:
            break
    stop(pool)
    return not (failed or waiting or running)


def ready(table: str, jobs: Sequence[Job], store: Store) -> list[Job]:
    """Those that no other row has to run before."""
    rows = TABLES[table]
    return [
        (name, seed)
        for name, seed in jobs
        if all(store.find(other, seed) for other in rows[name].needs)
    ]


def given(
    table: str, name: str, seed: int, store: Store, weights: Path
) -> dict[str, Any]:
    """What a row takes from another, or leaves for it."""
    rows = TABLES[table]
    row = rows[name]
    more: dict[str, Any] = {}

    def of(other: str) -> Path:
        # Of the same seed: rows are compared seed by seed.
        return weights / f'{store.path.stem}-{other}-s{seed}.pt'

    if row.widths_of:
        found = store.find(row.widths_of, seed)
        assert found, 'not ready'
        more['widths'] = found['widths']
    if row.teacher:
        more['teacher'] = of(row.teacher)
    if row.start:
        more['start'] = of(row.start), store.find(row.start, seed)
    if any(name in (r.teacher, r.start) for r in rows.values()):
        more['weights'] = of(name)
    return more


def summary(result: Result) -> str:
    """One line of the log."""
    return (
        f'{result["accuracy"]:.2f} % at {result["flops"]:.4f}, '
        f'{result["epochs"]} epochs at {result["cost"]:.3f} of dense '
        f'training, {result["seconds"]:.0f} s'
    )


def stop(pool: ProcessPoolExecutor) -> None:
    """Ends the processes of a pool, whatever they do."""
    processes: list[Any] = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    # A pool waits for what runs, however long that takes.
    for process in processes:
        process.terminate()
