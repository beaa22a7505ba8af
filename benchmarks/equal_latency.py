# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Accuracy at equal latency: a budget of time against one of FLOPs.

    unzip cifar10_jpeg.zip -d data/cifar10
    python benchmarks/equal_latency.py data/cifar10
    python benchmarks/equal_latency.py data/cifar10 --depth 18 --out FILE
    python benchmarks/equal_latency.py --out FILE --report docs/latency.md

A small ResNet, or ResNet-18, is pruned by LAPP while it is trained, once to a
share of its latency, and once to the share of its FLOPs at which the same
table predicts the same latency. Then all networks are measured in turns, in
seconds of the processor, which one thread takes however much else runs. What
the file of results has is not run again; `--measure` measures anew.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accuracy.build import EXAMPLE, SCOPE, first_channels, widths_of
from accuracy.data import Images, load_split, part_of
from accuracy.jobs import Store
from accuracy.lessons import Labels
from accuracy.network import classifier, evaluate
from accuracy.steps import Eager
from accuracy.table import by_row, deviation, markdown, with_spread
from accuracy.training import Recipe
from former import NO_FLOOR
from latency import put_between, tell
from torch import Tensor, nn

from mmlapp.core import Phase, PruningError, analyse, attach, narrow
from mmlapp.core.cost import LatencyTable
from mmlapp.core.files import replace_text
from mmlapp.engine.benchmark.rows import Candidate, Inputs, bench
from mmlapp.engine.latency.backends import BACKENDS
from mmlapp.engine.latency.measure import latency_table
from mmlapp.engine.latency.setting import Setting
from mmlapp.engine.latency.subject import Procedure, Subject
from mmlapp.engine.latency.whole_networks import untrained

RESULTS = Path(__file__).parent / 'results' / 'equal_latency.json'
ROWS = 'latency', 'flops', 'dense'
BASE = 'flops'
# Depth of the network -> its kind, and the width of its first stage.
NETWORKS = {8: ('resnet', 32), 18: ('imagenet_resnet', 64)}
# All widths of the table are measured: with AVX-512 time grows in steps of
# 16 channels, which a budget of time is to see and one of FLOPs is not.
DIVISOR, POINTS = 8, 16
# Predicted latencies that are taken for equal, relative, and how often a share
# of the FLOPs is tried for that: what is removed depends on it as on chance.
NEAR, ATTEMPTS = 0.02, 6
COLUMNS = 'FLOPs', 'predicted', 'measured', 'p90 / median', 'seeds', 'top-1'
Result = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What all results of a file share.

    Args:
        target (float): Share of the dense network's latency.
        phase (float): Share of the run in which channels are removed.
        recipe (Recipe): Of the training.
        depth (int): Of the network, one of ``NETWORKS``.
        width (int): Of its first stage.
        backend (str): What runs the network where time counts.
        keep_streams (bool): Whether residual streams stay whole.
        floor (bool): Whether LAPP has the floor that it has by default, of
            groups that information cannot go around.
    """

    target: float = 0.6
    phase: float = 0.2
    recipe: Recipe = field(default_factory=lambda: Recipe(10))
    depth: int = 8
    width: int = NETWORKS[8][1]
    backend: str = 'torch'
    keep_streams: bool = False
    floor: bool = False

    def network(self, seed: int = 0) -> nn.Module:
        """The dense network with the weights of a seed."""
        kind, _ = NETWORKS[self.depth]
        return classifier(self.depth, seed, self.width, kind)

    def attach(self, model: nn.Module, **settings: Any) -> Any:
        """The pruner of such a network, with the groups of all of them."""
        return attach(
            model,
            EXAMPLE,
            scope=SCOPE,
            keep_streams=self.keep_streams,
            **({} if self.floor else NO_FLOOR),
            **settings,
        )


class Run:
    """A training, which stops when its network is small.

    Args:
        asked (Asked): How.
        seed (int): Of weights and of the order of images.
        images (Images): To train on.
        table (LatencyTable): What layers take.
        target (Mapping): Of the budget; none for the dense network.
    """

    def __init__(
        self,
        asked: Asked,
        seed: int,
        images: Images,
        table: LatencyTable,
        target: Mapping[str, float] | None = None,
    ) -> None:
        self.asked, self.seed, self.images = asked, seed, images
        self.model = asked.network(seed)
        self.pruner = prunable(asked, self.model, table) if target else None
        device = images.pixels.device
        self.model.to(device, memory_format=torch.channels_last)
        self.optimizer = asked.recipe.optimizer(self.model)
        steps = asked.recipe.epochs * images.steps
        self.schedule = asked.recipe.schedule(self.optimizer, steps)
        if self.pruner:
            self.pruner.begin(target, max(int(asked.phase * steps), 1))
        self.step, self.steps = self._step(), self._steps()

    def prune(self) -> dict[str, float]:
        """Trains until the phase is over; what is left of each cost."""
        assert self.pruner, 'a dense network'
        while self.pruner.phase != Phase.FINISHED:
            next(self.steps)
        return self.pruner.ratios()

    def finish(self) -> dict[str, int]:
        """Narrows the network and trains it to the end; its widths."""
        widths = {}
        if self.pruner:
            widths = widths_of(self.pruner)
            narrow(self.model, self.pruner.plan(), self.optimizer)
            self.pruner = None
            self.step = self._step()
        for _ in self.steps:
            pass
        return widths

    def _steps(self) -> Iterator[None]:
        for epoch in range(self.asked.recipe.epochs):
            for pixels, labels in self.images.epoch(self.seed, epoch):
                self.step(pixels, labels)
                self.schedule.step()
                yield

    def _step(self) -> Eager:
        lesson = Labels(self.images)
        return Eager(self.model, self.optimizer, lesson, False, self.pruner)


def prunable(asked: Asked, model: nn.Module, table: LatencyTable) -> Any:
    """The pruner of a network whose time is known."""
    costs = ['flops', {'type': 'latency', 'table': table}]
    return asked.attach(model, costs=costs, divisor=DIVISOR)


def run(
    name: str,
    seed: int,
    asked: Asked,
    images: Images,
    test: tuple[Tensor, Tensor],
    table: LatencyTable,
    store: Store,
) -> Result:
    """Trains a row and evaluates it."""
    started, left = time.perf_counter(), {'flops': 1.0, 'latency': 1.0}
    begin = partial(Run, asked, seed, images, table)
    if name == 'dense':
        training = begin()
    elif name == 'latency':
        training = begin({'latency': asked.target})
        left = training.prune()
    else:
        wanted = store.find('latency', seed)
        if wanted is None:
            raise PruningError(
                f'--rows {name}: its budget is chosen by the network of the '
                f'row latency with seed {seed}. Run that, too'
            )
        training, left = as_fast(begin, wanted['predicted'])
    widths = training.finish()
    return {
        'row': name,
        'seed': seed,
        'accuracy': evaluate(training.model, *test),
        'flops': left['flops'],
        'predicted': left['latency'],
        'widths': widths,
        'seconds': round(time.perf_counter() - started, 1),
    }


def as_fast(begin: Any, wanted: float) -> tuple[Run, dict[str, float]]:
    """The run to a share of FLOPs whose latency is the wanted one.

    Args:
        begin (Callable): From a target to a run, which always goes alike.
        wanted (float): Share of the dense network's latency.
    """
    # Shares of FLOPs and of latency between which the wanted one lies: the
    # dense network has all, and nothing takes no time.
    low, high, best = (0.0, 0.0), (1.0, 1.0), None
    for _ in range(ATTEMPTS):
        target = between(low, high, wanted)
        training = begin({'flops': target})
        left = training.prune()
        tell(f'flops {target:.3f}: latency {left["latency"]:.3f}')
        off = abs(left['latency'] / wanted - 1)
        if best is None or off < best[0]:
            best = off, training, left
        if off <= NEAR:
            break
        point = target, left['latency']
        low, high = (low, point) if point[1] > wanted else (point, high)
    assert best is not None, ATTEMPTS
    return best[1], best[2]


def between(
    low: tuple[float, float], high: tuple[float, float], wanted: float
) -> float:
    """Where a value is to be expected, on the line through two points.

    Args:
        low (tuple[float, float]): Place and value, below the wanted one.
        high (tuple[float, float]): Likewise, above it.
        wanted (float): The value.

    Examples:
        >>> between((0.0, 0.0), (0.5, 0.7), 0.35)
        0.25
    """
    share = (wanted - low[1]) / (high[1] - low[1])
    return low[0] + share * (high[0] - low[0])


def measured_table(asked: Asked, path: Path) -> LatencyTable:
    """What the layers take, from a file or measured."""
    model = asked.network().eval()
    subject = Subject('ResNet', model, analyse(model, EXAMPLE), EXAMPLE)
    procedure = Procedure(
        Setting(asked.backend),
        POINTS,
        divisor=DIVISOR,
        clock=time.process_time,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return latency_table(subject, procedure, path)


@untrained()
def small(asked: Asked, widths: Mapping[str, int]) -> nn.Module:
    """The network of some widths; its weights decide on no time."""
    model = asked.network().eval()
    if widths:
        masked = copy.deepcopy(model)
        pruner = asked.attach(masked)
        pruner.set_mask(first_channels(pruner, widths))
        narrow(model, pruner.plan())
    return model


def times_of(
    asked: Asked, results: Sequence[Result], rounds: int
) -> dict[str, Any]:
    """All networks of a file, measured in turns.

    Args:
        asked (Asked): What they share.
        results (Sequence[dict]): One for each.
        rounds (int): Timed runs of each.
    """
    setting = Setting(asked.backend)
    candidates = [Candidate('dense', small(asked, {}))]
    candidates += [
        Candidate(key_of(result), small(asked, result['widths']))
        for result in results
        if result['row'] != 'dense'
    ]
    rows = bench(
        candidates,
        Inputs(EXAMPLE, EXAMPLE[:0]),
        [setting],
        rounds,
        time.process_time,
    )
    return {
        'setting': setting.described(),
        'rows': {row.name: asdict(row) for row in rows},
    }


def key_of(result: Result) -> str:
    """Under which the time of a network is kept."""
    # All dense networks take the same time.
    if result['row'] == 'dense':
        return 'dense'
    return f'{result["row"]}, seed {result["seed"]}'


def times_file(path: Path) -> Path:
    """Where the times of results are."""
    return path.with_suffix('.times.json')


def all_measured(path: Path, results: Sequence[Result]) -> bool:
    """Whether every network has its time."""
    times = times_file(path)
    if not times.exists():
        return False
    rows = json.loads(times.read_text('utf-8'))['rows']
    return all(key_of(result) in rows for result in results)


def marks_of(path: Path) -> tuple[str, str]:
    """Between which a page has the table of some results."""
    return f'<!-- {path.stem} -->', f'<!-- end of {path.stem} -->'


def report(path: Path) -> str:
    """A Markdown table, and where it was measured."""
    times = times_file(path)
    if not times.exists():
        return 'Not measured yet.'
    found = json.loads(times.read_text('utf-8'))
    setting = found['setting']
    packages = ', '.join(f'{k} {v}' for k, v in setting['versions'].items())
    table = markdown(
        by_row(ROWS, path), COLUMNS, partial(cells, found['rows']), [BASE]
    )
    return (
        f'Machine: processor time, {setting["device"]}, 1 thread, '
        f'{packages}.\n\n{table}'
    )


def cells(times: Mapping[str, Any], runs: Sequence[Result]) -> list[str]:
    """What is told of a row."""
    rows = [times[key_of(run)] for run in runs]
    ratios = [row['speed_up'] and 1 / row['speed_up'] for row in rows]
    noise = max(row['p90'] / row['median'] for row in rows)
    accuracies = [run['accuracy'] for run in runs]
    return [
        percent([run['flops'] for run in runs]),
        percent([run['predicted'] for run in runs]),
        percent(ratios) if all(ratios) else 'too noisy',
        f'{noise:.2f}',
        f'{len(runs)}',
        with_spread(
            f'{statistics.mean(accuracies):.2f}', deviation(accuracies)
        ),
    ]


def percent(values: Sequence[float]) -> str:
    """Mean and spread of shares."""
    text = f'{100 * statistics.mean(values):.1f}'
    return f'{with_spread(text, 100 * deviation(values))} %'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add = parser.add_argument
    add('data', type=Path, nargs='?', help='folder of CIFAR-10; none: report')
    add('--backend', choices=list(BACKENDS), default=Asked.backend)
    add('--depth', type=int, choices=NETWORKS, default=Asked.depth)
    add('--width', type=int, help='of the first stage; none: the usual one')
    add('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    add('--seeds', type=int, nargs='+', default=[0, 1, 2])
    add('--target', type=float, default=Asked.target)
    add('--keep-streams', action='store_true', help='residual streams stay')
    add('--floor', action='store_true', help="LAPP's, as by default")
    add('--phase', type=float, default=Asked.phase, help='share of the run')
    add('--epochs', type=int, default=10)
    add('--batch', type=int, default=64)
    add('--rate', type=float, default=0.2, help='highest learning rate')
    add('--subset', type=int, default=0, help='images of training; 0: all')
    add('--device', default='cpu', help='of training; times are of the CPU')
    add('--rounds', type=int, default=200, help='timed runs of each network')
    add('--table', type=Path, default='work_dirs/equal_latency/table.json')
    add('--measure', action='store_true', help='the networks, anew')
    add('--out', type=Path, default=RESULTS, help='file of the results')
    add('--report', type=Path, metavar='PAGE', help='write the table into it')
    return parser.parse_args(argv)


def train_all(args: argparse.Namespace, asked: Asked, store: Store) -> None:
    """Runs what is not there yet, seed by seed."""
    waiting = [
        (name, seed)
        for seed in args.seeds
        # The budget of FLOPs is chosen by the network of the one of latency.
        for name in sorted(args.rows, key=ROWS.index)
        if store.find(name, seed) is None
    ]
    if not waiting:
        return
    table = measured_table(asked, args.table)
    pair = part_of(load_split(args.data, 'train'), args.subset)
    images = Images(*pair, args.batch, torch.device(args.device))
    pixels, labels = load_split(args.data, 'test')
    test = pixels.to(args.device), labels.to(args.device)
    for name, seed in waiting:
        result = run(name, seed, asked, images, test, table, store)
        store.add(result)
        tell(f'{name}, seed {seed}: {result["accuracy"]:.2f} %')


def main(argv: Sequence[str] | None = None) -> None:
    """Runs and measures what is missing, and prints the table."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    try:
        if args.data:
            recipe = Recipe(
                args.epochs, args.batch, args.rate, subset=args.subset
            )
            asked = Asked(
                args.target,
                args.phase,
                recipe,
                args.depth,
                args.width or NETWORKS[args.depth][1],
                args.backend,
                args.keep_streams,
                args.floor,
            )
            store = Store(args.out, asked)
            train_all(args, asked, store)
            if args.measure or not all_measured(args.out, store.results):
                tell('measuring')
                found = times_of(asked, store.results, args.rounds)
                text = json.dumps(found, indent=1) + '\n'
                replace_text(times_file(args.out), text)
        if args.report:
            put_between(args.report, marks_of(args.out), report(args.out))
    except PruningError as error:
        raise SystemExit(f'error: {error}') from error
    print(report(args.out))


if __name__ == '__main__':
    main()
