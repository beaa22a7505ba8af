# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Times, sizes and outputs of several networks on several backends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.core.compare import largest_error
from mmlapp.core.numbers import check_number

from ..latency.backends import Run, network_run
from ..latency.setting import Setting
from ..latency.timing import (
    Timing,
    clock_of,
    interleaved,
    threads_of_torch,
)

# Backend on which outputs are what the others must compute.
REFERENCE = 'torch'
# Timed runs of each network, of which the five slowest are beyond p90.
ROUNDS = 50
OK = 'ok'
# Of name, network, backend, run and images: see `accuracy.Judge`.
Metrics = Callable[
    [str, nn.Module, str, Run, Tensor], Mapping[str, float] | None
]
# By name of the network and backend.
Runs = dict[tuple[str, str], Run]
# Where outputs have no error that is a number, see `largest_error`.
NOT_FINITE = 'its outputs hold values that are no numbers'
NO_PAIRS = 'its outputs are others in number or shape, or infinite'


@dataclass(frozen=True)
class Candidate:
    """A network to measure.

    Args:
        name (str): Such as ``dense`` or ``slim``.
        network (nn.Module): Maps images to tensors; in evaluation mode.
        like (str, optional): Name of the candidate that computes the same.
            Defaults to None: itself.
        backends (Sequence[str], optional): Where alone it runs. Defaults to
            None: on all.
    """

    name: str
    network: nn.Module
    like: str | None = None
    backends: Sequence[str] | None = None

    def runs_on(self, backend: str) -> bool:
        """Whether it is measured there.

        Args:
            backend (str): The backend.
        """
        return self.backends is None or backend in self.backends


@dataclass(frozen=True)
class Row:
    """One network on one backend.

    Args:
        name (str): Of the network.
        backend (str): What runs it.
        status (str): ``ok``, or what is wrong.
        megabytes (float): Of its parameters and buffers.
        parameters (int): Their number.
        macs (int): Multiply-adds for one image.
        share (float): What they are of those of the first network.
        error (float, optional): Largest relative error of an output, against
            what must be computed; None where there is no such number, as
            ``status`` then says.
        agreement (float, optional): Share of real images with the same
            first class; None of what is no classifier.
        metrics (Mapping[str, float], optional): What the config measures on
            its test data; None where that was not asked for.
        median (float, optional): Seconds for the batch.
        p90 (float, optional): Likewise.
        images_per_second (float, optional): By the median.
        speed_up (float, optional): Over the first network on the same
            backend; None where either is too noisy, or the outputs are no
            numbers to compare.
        factor (float, optional): ``speed_up`` times ``share``: 1 where time
            falls as FLOPs do.
    """

    name: str
    backend: str
    status: str
    megabytes: float
    parameters: int
    macs: int
    share: float
    error: float | None = None
    agreement: float | None = None
    metrics: Mapping[str, float] | None = None
    median: float | None = None
    p90: float | None = None
    images_per_second: float | None = None
    speed_up: float | None = None
    factor: float | None = None

    @property
    def accuracy(self) -> float | None:
        """The first of its metrics, as for MMEngine's ``save_best='auto'``."""
        return next(iter((self.metrics or {}).values()), None)

    @property
    def noisy(self) -> bool:
        """Whether its times differ too much for a claim."""
        if self.median is None or self.p90 is None:
            return False
        return Timing(self.median, self.p90).noisy


@dataclass(frozen=True)
class Inputs:
    """What networks are run on.

    Args:
        batch (Tensor): What is timed, ``[n, c, h, w]``.
        real (Tensor): Real images to compare classes on, in whole batches,
            ``[k n, c, h, w]``; none at all if there is no data.
    """

    batch: Tensor
    real: Tensor


def bench(
    candidates: Sequence[Candidate],
    inputs: Inputs,
    settings: Sequence[Setting],
    rounds: int = ROUNDS,
    clock: Callable[[], float] | None = None,
    progress: Callable[[str], None] = lambda text: None,
    judge: Metrics | None = None,
) -> list[Row]:
    """Measures all networks on all backends, in turns.

    What fails has its reason in its row; the others go on.

    Args:
        candidates (Sequence[Candidate]): The first one is what the others
            are compared with.
        inputs (Inputs): Images.
        settings (Sequence[Setting]): Backends, with one number of threads
            and one device.
        rounds (int): Timed runs of each. Defaults to 50.
        clock (Callable, optional): Seconds. Defaults to None: those of the
            device.
        progress (Callable): Is told what is being done. Defaults to
            nothing.
        judge (Callable, optional): Returns the metrics of a network, as
            :class:`~.accuracy.Judge`. Defaults to None: none.

    Returns:
        list[Row]: Backend by backend.
    """
    check_number('rounds', rounds, least=1, whole=True)
    device, threads = settings[0].device, settings[0].threads
    # Networks see the images of this one tensor, whatever is copied into it.
    images = inputs.batch.to(device).clone()
    # [:1]: multiply-adds are told of one image, whatever the batch.
    sizes = {c.name: _size(c.network, images[:1]) for c in candidates}
    with threads_of_torch(threads):
        rows, runs = _rows(candidates, images, settings, sizes, progress)
        progress('comparing outputs')
        rows = _compared(rows, candidates, runs, images, inputs)
        if judge is not None:
            rows = [
                _judged(row, candidates, runs, images, judge, progress)
                for row in rows
            ]
        progress('measuring')
        images.copy_(inputs.batch)
        timings = interleaved(
            [*runs.values()], rounds, clock=clock or clock_of(device)
        )
    return _timed(rows, dict(zip(runs, timings, strict=True)), len(images))


@dataclass(frozen=True)
class _Size:
    megabytes: float
    parameters: int
    macs: int


def _size(network: nn.Module, image: Tensor) -> _Size:
    """Counted by torch, and not by what is measured."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    stored = [*network.parameters(), *network.buffers()]
    return _Size(
        sum(t.numel() * t.element_size() for t in stored) / 1e6,
        sum(p.numel() for p in network.parameters()),
        # Two operations each.
        counter.get_total_flops() // 2,
    )


def _rows(
    candidates: Sequence[Candidate],
    images: Tensor,
    settings: Sequence[Setting],
    sizes: Mapping[str, _Size],
    progress: Callable[[str], None],
) -> tuple[list[Row], Runs]:
    """Rows of all networks, and how those run that can."""
    runs: Runs = {}
    rows: list[Row] = []
    for setting, candidate in product(settings, candidates):
        if candidate.runs_on(setting.backend):
            progress(f'{candidate.name} on {setting.backend}')
            row, run = _row(candidate, images, setting, sizes)
            rows.append(row)
            if run is not None:
                runs[candidate.name, setting.backend] = run
    return rows, runs


def _row(
    candidate: Candidate,
    images: Tensor,
    setting: Setting,
    sizes: Mapping[str, _Size],
) -> tuple[Row, Run | None]:
    size = sizes[candidate.name]
    # The first candidate, in the order of the dictionary.
    dense = next(iter(sizes.values()))
    row = Row(
        candidate.name,
        setting.backend,
        OK,
        size.megabytes,
        size.parameters,
        size.macs,
        size.macs / max(dense.macs, 1),
    )
    try:
        # Run once: some fail only then, and the first run compiles.
        run = network_run(candidate.network, images, setting)
        run()
    # Compilers and runtimes raise whatever they like.
    except Exception as error:
        text = ' '.join(str(error).split())[:300]
        return replace(row, status=f'{type(error).__name__}: {text}'), None
    return row, run


def _compared(
    rows: Sequence[Row],
    candidates: Sequence[Candidate],
    runs: Runs,
    images: Tensor,
    inputs: Inputs,
) -> list[Row]:
    """Adds errors and agreement, each against the network that is right."""
    like = {c.name: c.like or c.name for c in candidates}
    # By the name of the network whose outputs are right: dense and masked.
    # What is slim must compute what is masked.
    right = {
        c.name: _seen(
            network_run(c.network, images, Setting(REFERENCE)), images, inputs
        )
        for c in candidates
        if c.name in like.values()
    }
    found = []
    for row in rows:
        run = runs.get((row.name, row.backend))
        if run is not None:
            expected, classes = right[like[row.name]]
            outputs, own = _seen(run, images, inputs)
            row = _with_error(row, largest_error(expected, outputs))
            row = replace(row, agreement=_agreement(classes, own))
        found.append(row)
    return found


def _judged(
    row: Row,
    candidates: Sequence[Candidate],
    runs: Runs,
    images: Tensor,
    judge: Metrics,
    progress: Callable[[str], None],
) -> Row:
    """A row with its metrics, if it runs."""
    run = runs.get((row.name, row.backend))
    if run is None:
        return row
    progress(f'accuracy of {row.name} on {row.backend}')
    network = next(c.network for c in candidates if c.name == row.name)
    metrics = judge(row.name, network, row.backend, run, images)
    return replace(row, metrics=metrics)


def _with_error(row: Row, error: float) -> Row:
    """A row with its error; without one, it says why there is none."""
    if math.isfinite(error):
        return replace(row, error=error)
    return replace(row, status=NOT_FINITE if math.isnan(error) else NO_PAIRS)


def _seen(
    run: Run, images: Tensor, inputs: Inputs
) -> tuple[list[Tensor], Tensor | None]:
    """Outputs of the batch, and classes of the real images."""
    outputs = _outputs(run, images, inputs.batch)
    return outputs, _classes(run, images, inputs.real)


def _outputs(run: Run, images: Tensor, batch: Tensor) -> list[Tensor]:
    images.copy_(batch)
    # Clones: a backend may write its next outputs into the same memory.
    return [output.detach().cpu().clone() for output in run()]


def _classes(run: Run, images: Tensor, real: Tensor) -> Tensor | None:
    """First class of each real image, ``[images]``; None of no classifier."""
    if not len(real):
        return None
    found = []
    # [k n, c, h, w] -> k batches [n, c, h, w], the size that the runs know.
    for batch in real.split(len(images)):
        outputs = _outputs(run, images, batch)
        # One output [n, classes]: anything else tells no class of an image.
        if len(outputs) != 1 or outputs[0].dim() != 2:
            return None
        found.append(outputs[0].argmax(1))
    return torch.cat(found)


def _agreement(right: Tensor | None, found: Tensor | None) -> float | None:
    if right is None or found is None:
        return None
    return float((right == found).double().mean())


def _timed(
    rows: Sequence[Row],
    timings: Mapping[tuple[str, str], Timing],
    batch: int,
) -> list[Row]:
    """Adds times and what follows from them."""
    first, found = rows[0].name, []
    for row in rows:
        timing = timings.get((row.name, row.backend))
        base = timings.get((first, row.backend))
        if timing is None:
            found.append(row)
            continue
        speed_up = None
        sure = row.status == OK and not timing.noisy
        if base is not None and sure and not base.noisy:
            # Medians: one slow run, as when another process woke up, moves
            # none.
            speed_up = base.median / timing.median
        found.append(
            replace(
                row,
                median=timing.median,
                p90=timing.p90,
                images_per_second=batch / timing.median,
                speed_up=speed_up,
                factor=None if speed_up is None else speed_up * row.share,
            )
        )
    return found
