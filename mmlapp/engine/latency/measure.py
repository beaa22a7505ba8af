# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measures the latency table of a network."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmlapp.core import (
    Analysis,
    PruningError,
    PruningWarning,
    attach,
    narrow,
)
from mmlapp.core.attach import cost_context
from mmlapp.core.cost import Latency, LatencyTable
from mmlapp.core.cost.latency_table import TimedLayer, TimedNetwork, key_of
from mmlapp.core.files import replace_text
from mmlapp.core.methods.budget import check_divisor, reachable
from mmlapp.core.numbers import check_number
from mmlapp.core.plan.reading import parse_json

from ..output_files import check_output, unwritable
from .backends import network_run
from .layers import Kind, kinds, layer_run
from .setting import Setting, difference
from .timing import Timing, clock_of, interleaved, threads_of_torch

# Whole networks beside the dense one, on the way down to the least FLOPs.
STEPS = 0.2, 0.4, 0.6, 0.8
# Times their rounds: four numbers decide on the scale of all.
NETWORK_ROUNDS = 4
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """How a table is measured.

    Args:
        setting (Setting): Backend, threads, batch and device.
        points (int): Widths of each dimension that may shrink, beside half
            of the least. Defaults to 8.
        rounds (int): Timed calls of each layer at each width. Defaults to
            15.
        divisor (int): What widths are multiples of. Defaults to 8.
        clock (Callable, optional): Seconds. Defaults to None: those of the
            device.

    Raises:
        PruningError: If there are too few points or rounds.
    """

    setting: Setting = field(default_factory=Setting)
    points: int = 8
    rounds: int = 15
    divisor: int = 8
    clock: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        """Checks what a user gave."""
        # Two: the half and the whole, see how tables are checked.
        check_number('points', self.points, least=2, whole=True)
        check_number('rounds', self.rounds, least=1, whole=True)
        check_divisor(self.divisor)

    def time(
        self, runs: Sequence[Callable[[], object]], times: int = 1
    ) -> list[Timing]:
        """Times functions in turns.

        Args:
            runs (Sequence[Callable]): What to time.
            times (int): How often all rounds. Defaults to 1.
        """
        clock = self.clock or clock_of(self.setting.device)
        return interleaved(runs, times * self.rounds, clock=clock)


@dataclass(frozen=True)
class Subject:
    """The network that is measured.

    Args:
        name (str): What a report calls it.
        model (nn.Module): The dense network in evaluation mode.
        analysis (Analysis): What can be pruned in it.
        images (Tensor): One image, ``[1, c, h, w]``.
        part (Callable): Makes what is timed from a model, dense or narrow:
            a module that maps images to tensors.
    """

    name: str
    model: nn.Module
    analysis: Analysis
    images: Tensor
    part: Callable[[nn.Module], nn.Module] = lambda model: model


def measure_table(
    subject: Subject,
    plan: Plan,
    partial: str | Path | None = None,
    progress: Progress = lambda done, total, text: None,
) -> LatencyTable:
    """Measures all kinds of layers, then some whole networks.

    Args:
        subject (Subject): The network.
        plan (Plan): How.
        partial (str or Path, optional): File for what is done, from which
            it goes on. Defaults to None: none.
        progress (Callable): Is told how many of how many steps are done, and
            which is next. Defaults to nothing.

    Raises:
        PruningError: If a layer cannot be run alone, or the partial file is
            of something else.
    """
    found, described = kinds_of(subject, plan), describe(subject, plan)
    store = _Store(partial, described, plan)
    with threads_of_torch(plan.setting.threads):
        layers = []
        for done, kind in enumerate(found):
            progress(done, len(found) + 1, kind.names[0])
            layers.append(_timed_layer(kind, plan, store))
        progress(len(found), len(found) + 1, 'whole networks')
        networks = _timed_networks(subject, plan, layers, described)
    progress(len(found) + 1, len(found) + 1, '')
    return LatencyTable(described, plan.divisor, tuple(layers), networks)


def kinds_of(subject: Subject, plan: Plan) -> list[Kind]:
    """Returns what is measured of a network.

    Args:
        subject (Subject): The network.
        plan (Plan): At which widths.
    """
    context = cost_context(subject.model, subject.analysis)
    return kinds(context, plan.setting.batch, plan.points, plan.divisor)


def describe(subject: Subject, plan: Plan) -> dict[str, Any]:
    """Returns what a table holds for.

    Args:
        subject (Subject): The network.
        plan (Plan): How it is measured.
    """
    # Names, shapes and widths tell models apart, and scopes.
    text = json.dumps(
        [[k.names, _key(k), dict(k.axes)] for k in kinds_of(subject, plan)]
    )
    return {
        'model': subject.name,
        'layers': hashlib.sha256(text.encode()).hexdigest()[:16],
        'input_shape': list(subject.images.shape[1:]),
        **plan.setting.described(),
    }


def _key(kind: Kind) -> str:
    call = kind.call
    return key_of(call.op, call.inputs, call.weight, call.geometry)


class _Store:
    """What is measured so far, by kind of layer."""

    def __init__(
        self, path: str | Path | None, setting: Mapping[str, Any], plan: Plan
    ) -> None:
        self.path = None if path is None else Path(path)
        self.setting = {**setting, 'rounds': plan.rounds}
        self.times: dict[str, list[Timing]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)
        # Before anything is measured: a folder may not be written to.
        self._write()

    def _read(self, path: Path) -> None:
        what = f'partial file {str(path)!r}'
        try:
            data = parse_json(path.read_text('utf-8'), what)
            found = dict(data['setting'])
            times = {
                str(key): [Timing(*map(float, pair)) for pair in pairs]
                for key, pairs in data['times'].items()
            }
        except (
            *(OSError, KeyError, AttributeError),
            *(TypeError, ValueError),  # UnicodeDecodeError is one
        ) as error:
            raise PruningError(
                f'{what} cannot be read ({error}): remove it'
            ) from error
        differs = difference(found, self.setting)
        if differs:
            raise PruningError(
                f'{what} was begun for something else ({differs}): remove '
                'it, or choose another --out'
            )
        self.times = times

    def get(self, key: str, count: int) -> list[Timing] | None:
        """Times of a kind of layer; None if it is not measured."""
        found = self.times.get(key)
        return found if found is not None and len(found) == count else None

    def put(self, key: str, timings: Sequence[Timing]) -> None:
        """Adds those of a kind of layer."""
        self.times[key] = list(timings)
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        times = {
            key: [(t.median, t.p90) for t in timings]
            for key, timings in self.times.items()
        }
        text = json.dumps({'setting': self.setting, 'times': times})
        try:
            replace_text(self.path, text)
        except OSError as error:
            raise PruningError(
                f'partial file {str(self.path)!r} cannot be written '
                f'({error.strerror}): make room, or choose another --out'
            ) from error


def _timed_layer(kind: Kind, plan: Plan, store: _Store) -> TimedLayer:
    widths, key = list(kind.widths()), f'{_key(kind)} {list(kind.axes)}'
    timings = store.get(key, len(widths))
    if timings is None:
        runs = [layer_run(kind.call, each, plan.setting) for each in widths]
        timings = plan.time(runs)
        store.put(key, timings)
    call = kind.call
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


def _timed_networks(
    subject: Subject,
    plan: Plan,
    layers: Sequence[TimedLayer],
    described: Mapping[str, Any],
) -> tuple[TimedNetwork, ...]:
    """The dense network and uniform ones, measured in turns."""
    alone = LatencyTable(
        described,
        plan.divisor,
        tuple(layers),
        (TimedNetwork(1.0, 1.0, 1.0, 1.0),),
    )
    networks, parts = [subject.model], [(1.0, 1.0)]
    for model, layer_part, element_part in _uniform(subject, plan, alone):
        networks.append(model)
        parts.append((layer_part, element_part))
    images = subject.images.repeat(plan.setting.batch, 1, 1, 1)
    images = images.to(plan.setting.device)
    runs = [
        network_run(
            subject.part(model.to(plan.setting.device)).eval(),
            images,
            plan.setting,
        )
        for model in networks
    ]
    timings = plan.time(runs, NETWORK_ROUNDS)
    return tuple(
        TimedNetwork(a, b, timing.median, timing.p90)
        for (a, b), timing in zip(parts, timings, strict=True)
    )


@contextmanager
def untrained() -> Iterator[None]:
    """Hears no advice about training: a network is pruned to be timed."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', PruningWarning)
        yield


@untrained()
def _uniform(
    subject: Subject, plan: Plan, table: LatencyTable
) -> list[tuple[nn.Module, float, float]]:
    """Networks of equal shares, and what of the dense one's layers is left."""
    masked = copy.deepcopy(subject.model)
    costs = ['flops', {'type': 'latency', 'table': table}]
    pruner = attach(
        masked,
        subject.images,
        method='uniform',
        costs=costs,
        divisor=plan.divisor,
        analysis=subject.analysis,
    )
    flops, latency = pruner.cost('flops'), pruner.cost('latency')
    assert isinstance(latency, Latency)
    args = pruner.scores, pruner.group, pruner.floors, plan.divisor
    least = reachable(flops, *args) / flops.dense
    found = []
    for step in STEPS:
        # A little above the least, which uniform shares may not reach.
        share = 1 - step * (1 - least)
        pruner.begin({'flops': share}, 1)
        pruner.step()
        gate, planned = pruner.mask.double(), pruner.plan()
        pruner.reset()
        slim = narrow(copy.deepcopy(subject.model), planned)
        found.append(
            (
                slim,
                float(latency.layers_ratio(gate)),
                float(latency.elements.ratio(gate)),
            )
        )
    return found


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
    plan: Plan,
    out: str | Path,
    force: bool = False,
    progress: Progress = lambda done, total, text: None,
) -> LatencyTable:
    """Measures a table into a file, or returns what is there of it.

    What is measured stands in a file beside it until all is; a call that was
    stopped goes on from there.

    Args:
        subject (Subject): The network.
        plan (Plan): How.
        out (str or Path): The file.
        force (bool): Whether to measure anew what is there. Defaults to
            False.
        progress (Callable): As in :func:`measure_table`.

    Raises:
        PruningError: If one of the two files is of something else, or they
            cannot be written.
    """
    out = Path(out)
    check_output('out', out)
    partial = out.with_name(f'{out.name}.partial')
    if force:
        partial.unlink(missing_ok=True)
    else:
        found = finished(out, describe(subject, plan))
        if found is not None:
            return found
    table = measure_table(subject, plan, partial, progress)
    try:
        table.save(out)
    except OSError as error:
        raise unwritable('out', out, error) from error
    partial.unlink(missing_ok=True)
    return table
