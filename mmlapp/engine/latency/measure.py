# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measures the latency table of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmlapp.core import PruningError
from mmlapp.core.cost import LatencyTable
from mmlapp.core.cost.latency_table import TimedLayer, key_of_call

from ..output_files import behind_links, check_output, writing
from .kinds import Kind
from .layers import layer_run
from .partial import PartialTable
from .setting import difference
from .subject import Procedure, Subject, describe, kinds_of
from .timing import threads_of_torch
from .whole_networks import timed_networks

# How many steps are done, of how many, and what the next one is.
Announce = Callable[[int, int, str], None]


def measure_table(
    subject: Subject,
    procedure: Procedure,
    partial: str | Path | None = None,
    progress: Announce = lambda done, total, text: None,
) -> LatencyTable:
    """Measures all kinds of layers, then some whole networks.

    Args:
        subject (Subject): The network.
        procedure (Procedure): How.
        partial (str or Path, optional): File for what is done, from which
            it goes on. Defaults to None: none.
        progress (Callable): Is told how many of how many steps are done, and
            which is next. Defaults to nothing.

    Raises:
        PruningError: If a layer cannot be run alone, or the partial file is
            of something else.
    """
    found, described = (
        kinds_of(subject, procedure),
        describe(subject, procedure),
    )
    store = PartialTable(partial, described, procedure)
    with threads_of_torch(procedure.setting.threads):
        layers = []
        for done, kind in enumerate(found):
            progress(done, len(found) + 1, kind.names[0])
            layers.append(_timed_layer(kind, procedure, store))
        progress(len(found), len(found) + 1, 'whole networks')
        networks = timed_networks(subject, procedure, layers, described)
    progress(len(found) + 1, len(found) + 1, '')
    return LatencyTable(described, procedure.divisor, tuple(layers), networks)


def _timed_layer(
    kind: Kind, procedure: Procedure, store: PartialTable
) -> TimedLayer:
    call, widths = kind.call, list(kind.widths())
    key = f'{key_of_call(call)} {list(kind.axes)}'
    timings = store.get(key, len(widths))
    if timings is None:
        runs = [layer_run(call, each, procedure.setting) for each in widths]
        timings = procedure.time(runs)
        # Written after each kind: the next may take minutes.
        store.put(key, timings)
    return TimedLayer(
        kind.names,
        call.op,
        call.inputs,
        call.weight,
        call.geometry,
        kind.axes,
        # A clock may not tell such short times from nothing.
        tuple(max(t.median, 1e-9) for t in timings),
        tuple(max(t.p90, 1e-9) for t in timings),
    )


def finished(path: Path, described: Mapping[str, Any]) -> LatencyTable | None:
    """Returns the table of a file; None if there is no such file.

    Args:
        path (Path): The file.
        described (Mapping[str, Any]): What it must hold for.

    Raises:
        PruningError: If it holds for another model, device or setting.
    """
    if not path.exists():
        return None
    found = LatencyTable.load(path)
    differs = difference(found.setting, described)
    if differs:
        raise PruningError(
            f'out={str(path)!r} is the table of something else ({differs}): '
            'choose another --out, or measure anew with --force'
        )
    return found


def latency_table(
    subject: Subject,
    procedure: Procedure,
    out: str | Path,
    force: bool = False,
    progress: Announce = lambda done, total, text: None,
) -> LatencyTable:
    """Measures a table into a file, or returns what is there of it.

    What is measured stands in a file beside it until all is; a call that was
    stopped goes on from there, also one that measures anew what is there.

    Args:
        subject (Subject): The network.
        procedure (Procedure): How.
        out (str or Path): The file.
        force (bool): Whether to measure anew what is there. Defaults to
            False.
        progress (Callable): As in :func:`measure_table`.

    Raises:
        PruningError: If one of the two files is of something else, or they
            cannot be written.
    """
    out = Path(out)
    # Before anything is measured, which may take hours.
    check_output('out', out)
    place = behind_links(out)
    partial = place.with_name(f'{place.name}.partial')
    if force:
        partial.unlink(missing_ok=True)
    else:
        found = finished(out, describe(subject, procedure))
        # Both files: a call that was to replace the table was stopped.
        if found is not None and not partial.exists():
            return found
    table = measure_table(subject, procedure, partial, progress)
    with writing('out', out):
        table.save(out)
    # Last: whoever is stopped here has both files, and nearly all in one.
    partial.unlink(missing_ok=True)
    return table
