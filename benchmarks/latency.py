# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether pruned networks are faster where they run, and as predicted.

    pip install torch-pruning  # for the rows of the peer
    python benchmarks/latency.py
    python benchmarks/latency.py --report docs/latency.md

`speed` measures dense networks, ours and those of Torch-Pruning (L1 norms, the
same share of every layer) at the same FLOPs, in turns. `budget` measures a
latency table of ResNet-18, prunes to five targets of `latency` and compares
what was predicted with what is measured. Weights are random: they decide on no
time. What is done is in the file of results, and a call goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accuracy.one_shot import largest_within
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18, resnet50

from mmlapp.core import PruningError, analyse, attach, narrow
from mmlapp.core.cost import LatencyTable
from mmlapp.core.files import replace_text
from mmlapp.engine.benchmark.rows import Candidate, Inputs, Row, bench
from mmlapp.engine.config_files import read_config
from mmlapp.engine.latency.measure import measure_table
from mmlapp.engine.latency.part import subject_of
from mmlapp.engine.latency.setting import Setting, difference
from mmlapp.engine.latency.subject import Procedure, Subject
from mmlapp.engine.latency.whole_networks import untrained

RESULTS = Path(__file__).parent / 'results' / 'latency.json'
# Floats of a register of AVX-512, which kernels compute at a time.
DIVISOR = 16
TARGETS = 0.8, 0.7, 0.6, 0.5, 0.4
BUDGETED = 'ResNet-18'
OURS, PEER = 'mmlapp', 'Torch-Pruning'
PEER_ROUNDED = f'{PEER}, multiples of {DIVISOR}'
# Where docs have what a report writes.
MARKS = '<!-- measured -->', '<!-- end of measured -->'
NOTHING = 'Not measured yet.'


def classifier(
    name: str, build: Callable[[], nn.Module], size: int
) -> Subject:
    """A network of torchvision."""
    torch.manual_seed(0)
    model, images = build().eval(), torch.rand(1, 3, size, size)
    return Subject(name, model, analyse(model, images), images)


def retinanet(size: int) -> Subject:
    """Backbone, neck and head of mmdet's detector, all of it prunable."""
    torch.manual_seed(0)
    cfg = read_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    scope = ['backbone', 'neck', 'bbox_head']
    return subject_of(cfg, {'scope': scope, 'input_shape': (3, size, size)})


# Network, what builds it at a size of the image, that size, FLOPs left.
CASES: dict[str, tuple[Callable[[int], Subject], int, float]] = {
    'ResNet-18': (lambda s: classifier('ResNet-18', resnet18, s), 224, 0.444),
    'ResNet-50': (lambda s: classifier('ResNet-50', resnet50, s), 224, 0.5),
    'RetinaNet-R18': (retinanet, 320, 0.5),
}


@untrained()
def pruned(
    subject: Subject,
    target: Mapping[str, float],
    method: str,
    costs: Sequence[Any] = ('flops',),
) -> tuple[nn.Module, dict[str, float]]:
    """A narrow copy, and what is left of its costs."""
    pruner = attach(
        copy.deepcopy(subject.model),
        subject.images,
        method=method,
        costs=costs,
        divisor=DIVISOR,
        analysis=subject.analysis,
    )
    pruner.begin(target, 1)
    pruner.step()
    slim = narrow(copy.deepcopy(subject.model), pruner.plan())
    return subject.part(slim).eval(), pruner.ratios()


def flops(network: nn.Module, images: Tensor) -> int:
    """As torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops())


def peer(
    network: nn.Module, images: Tensor, target: float, rounded: bool
) -> nn.Module:
    """Torch-Pruning's network of the least L1 norms, within a target."""
    # Needed by its rows alone, and no requirement of the project.
    import torch_pruning

    outputs = last_layers(network, images)

    def prune(ratio: float) -> nn.Module:
        found = copy.deepcopy(network)
        torch_pruning.pruner.MagnitudePruner(
            found,
            images,
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=ratio,
            round_to=DIVISOR if rounded else None,
            ignored_layers=[found.get_submodule(name) for name in outputs],
        ).step()
        return found.eval()

    limit = target * flops(network, images)
    return largest_within(prune, lambda n: flops(n, images), limit)


def last_layers(network: nn.Module, images: Tensor) -> list[str]:
    """Layers whose channels the network puts out, which must stay."""
    frozen = [
        group.name
        for group in analyse(network, images).groups.items
        if group.frozen is not None
    ]
    return [name.partition('#')[0] for name in frozen]


@cache
def networks_at(
    name: str, size: int
) -> tuple[Tensor, dict[str, nn.Module], dict[str, str]]:
    """An image, the networks of a case, and which could not be made."""
    build, usual, target = CASES[name]
    subject = build(size or usual)
    dense = subject.part(subject.model).eval()
    ours, _ = pruned(subject, {'flops': target}, 'uniform')
    networks, failed = {'dense': dense, OURS: ours}, {}
    for label, rounded in ((PEER, False), (PEER_ROUNDED, True)):
        tell(f'{name}: {label}')
        try:
            networks[label] = peer(dense, subject.images, target, rounded)
        # A tool of others, on networks that it may not follow.
        except Exception as error:
            text = ' '.join(str(error).split())[:200]
            failed[label] = f'{type(error).__name__}: {text}'
    return subject.images, networks, failed


def speed(name: str, options: Options) -> list[dict[str, Any]]:
    """Rows of one network: all ways to prune it, all backends."""
    images, networks, failed = networks_at(name, options.size)
    rows = bench(
        [Candidate(*item) for item in networks.items()],
        Inputs(images, images[:0]),
        options.settings(),
        options.rounds,
        options.clock,
        progress=lambda text: tell(f'{name}: {text}'),
    )
    rows += [
        Row(label, backend, text, 0.0, 0, 0, 0.0)
        for label, text in failed.items()
        for backend in options.backends
    ]
    return [asdict(row) for row in rows]


def budget(backend: str, options: Options) -> list[dict[str, Any]]:
    """Five targets on one backend: predicted and measured."""
    build, size, _ = CASES[BUDGETED]
    subject = build(options.size or size)
    setting = Setting(backend, options.threads)
    table = options.table(subject, setting)
    costs = ['flops', {'type': 'latency', 'table': table}]
    candidates = [Candidate('dense', subject.part(subject.model).eval())]
    left, failed = {'dense': {'latency': 1.0, 'flops': 1.0}}, []
    for target in TARGETS:
        name = str(target)
        try:
            slim, left[name] = pruned(
                subject, {'latency': target}, 'ranking', costs
            )
            candidates.append(Candidate(name, slim))
        except PruningError as error:  # below what can be reached
            failed.append(Row(name, backend, str(error), 0.0, 0, 0, 0.0))
    images = subject.images
    rows = bench(
        candidates,
        Inputs(images, images[:0]),
        [setting],
        options.rounds,
        options.clock,
        progress=lambda text: tell(f'{BUDGETED}, budget: {text}'),
    )
    nothing = {'latency': None, 'flops': None}
    return [
        {
            **asdict(row),
            'predicted': left.get(row.name, nothing)['latency'],
            'flops': left.get(row.name, nothing)['flops'],
        }
        for row in (*rows, *failed)
    ]


class Options:
    """What a call asks for.

    Args:
        threads (int): Of one operator.
        backends (Sequence[str]): What runs networks.
        rounds (int): Timed runs of each network.
        points (int): Widths of the table.
        table_rounds (int): Timed runs at each width.
        size (int): Edge of the images; 0 for that of each case.
        processor (bool): Whether to count seconds of the processor, which a
            single thread takes however much else runs.
    """

    def __init__(
        self,
        threads: int = 1,
        backends: Sequence[str] = ('torch', 'onnxruntime'),
        rounds: int = 50,
        points: int = 8,
        table_rounds: int = 15,
        size: int = 0,
        processor: bool = False,
    ) -> None:
        self.threads, self.backends, self.rounds = threads, backends, rounds
        self.points, self.table_rounds, self.size = points, table_rounds, size
        self.clock = time.process_time if processor else time.perf_counter

    def settings(self) -> list[Setting]:
        """One for each backend."""
        return [Setting(name, self.threads) for name in self.backends]

    def table(self, subject: Subject, setting: Setting) -> LatencyTable:
        """Measures the layers of a network."""
        procedure = Procedure(
            setting, self.points, self.table_rounds, DIVISOR, self.clock
        )
        return measure_table(
            subject,
            procedure,
            progress=lambda done, total, text: tell(
                f'{subject.name}, table {done} of {total}: {text}'
            ),
        )


def tell(text: str) -> None:
    """Says what is being done."""
    print(text, file=sys.stderr, flush=True)


def jobs(
    networks: Sequence[str], options: Options
) -> Iterator[tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """What there is to do, by the names under which it is kept."""
    for name in networks:
        key = f'speed, {name}, {options.threads} threads'
        yield key, lambda name=name: speed(name, options)  # type: ignore[misc]
    if BUDGETED in networks:
        for backend in options.backends:
            key = f'budget, {backend}, {options.threads} threads'
            yield (
                key,
                lambda backend=backend: budget(  # type: ignore[misc]
                    backend, options
                ),
            )


class Store:
    """The file of results: one device, one set of versions.

    Args:
        path (Path): The file.
        backends (Sequence[str]): What runs networks.
        clock (str): ``wall`` or ``processor``.
    """

    def __init__(
        self, path: Path, backends: Sequence[str], clock: str = 'wall'
    ) -> None:
        self.path = path
        described = [Setting(name).described() for name in backends]
        versions: dict[str, str] = {}
        for each in described:
            versions.update(each['versions'])
        device = described[0]['device']
        self.machine = {'device': device, 'clock': clock, **versions}
        self.results: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            data = json.loads(path.read_text('utf-8'))
            self._check(data['machine'])
            self.results = data['results']

    def _check(self, machine: Mapping[str, str]) -> None:
        shared = self.machine.keys() & machine.keys()
        differs = difference(
            {key: machine[key] for key in shared},
            {key: self.machine[key] for key in shared},
        )
        if differs:
            raise PruningError(
                f'--json {self.path} was measured elsewhere ({differs}): '
                'choose another file, or remove it'
            )
        self.machine = {**machine, **self.machine}

    def put(self, key: str, rows: list[dict[str, Any]]) -> None:
        """Adds what was measured."""
        self.results[key] = rows
        data = {'machine': self.machine, 'results': self.results}
        replace_text(self.path, json.dumps(data, indent=1) + '\n')


def number(value: float | None, form: str, none: str = '') -> str:
    """A cell."""
    return none if value is None else format(value, form)


def markdown(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose first columns are text."""
    marks = [
        ':--' if title in ('network', 'backend', 'pruned by') else '--:'
        for title in titles
    ]
    return '\n'.join(
        f'| {" | ".join(cells)} |' for cells in (titles, marks, *lines)
    )


def speed_table(results: Mapping[str, list[dict[str, Any]]]) -> str:
    """All networks that were measured at equal FLOPs."""
    lines = []
    for key, rows in results.items():
        kind, name, threads = key.split(', ')
        for row in rows if kind == 'speed' else []:
            ok = row['status'] == 'ok'
            none = 'too noisy' if ok else 'failed'
            lines.append(
                [
                    name,
                    threads.removesuffix(' threads'),
                    row['backend'],
                    row['name'],
                    f'{row["share"]:.1%}' if ok else '',
                    number(row['median'] and 1e3 * row['median'], '.1f'),
                    number(row['p90'] and 1e3 * row['p90'], '.1f'),
                    number(row['speed_up'], '.2f', none),
                    number(row['factor'], '.2f', none),
                ]
            )
    titles = (
        'network',
        'threads',
        'backend',
        'pruned by',
        'FLOPs',
        'ms',
        'p90',
        'speed-up',
        'factor',
    )
    return markdown(titles, lines)


def budget_table(results: Mapping[str, list[dict[str, Any]]]) -> str:
    """Targets of latency: predicted against measured."""
    lines = []
    for key, rows in results.items():
        kind, backend, threads = key.split(', ')
        for row in rows[1:] if kind == 'budget' else []:
            none = 'too noisy' if row['status'] == 'ok' else 'unreachable'
            measured = row['speed_up'] and 1 / row['speed_up']
            off = measured and measured / row['predicted'] - 1
            lines.append(
                [
                    backend,
                    threads.removesuffix(' threads'),
                    f'{float(row["name"]):.0%}',
                    number(row['predicted'], '.1%'),
                    number(measured, '.1%', none),
                    number(off, '+.1%', none),
                    number(row['flops'], '.1%'),
                ]
            )
    titles = (
        'backend',
        'threads',
        'target',
        'predicted',
        'measured',
        'measured over predicted',
        'FLOPs',
    )
    return markdown(titles, lines)


def report(path: Path) -> str:
    """What docs have of a file of results."""
    if not path.exists():
        return NOTHING
    data = json.loads(path.read_text('utf-8'))
    own = {'device': '{}', 'clock': '{} time'}
    machine = ', '.join(
        own.get(key, f'{key} {{}}').format(value)
        for key, value in sorted(data['machine'].items())
    )
    parts = [f'Machine: {machine}.']
    results = data['results']
    if any(key.startswith('speed') for key in results):
        parts.append(speed_table(results))
    if any(key.startswith('budget') for key in results):
        parts.append(f'{BUDGETED}:\n\n{budget_table(results)}')
    return '\n\n'.join(parts)


def measured_part(page: str, marks: tuple[str, str] = MARKS) -> str:
    """What a page has between two marks."""
    begin, end = marks
    return page.partition(begin)[2].partition(end)[0].strip()


def put_between(page: Path, marks: tuple[str, str], found: str) -> None:
    """Puts a text between two marks of a page."""
    text, (begin, end) = page.read_text('utf-8'), marks
    if begin not in text or end not in text:
        raise PruningError(f'--report {page}: it has no {begin} and {end}')
    before, after = text.partition(begin)[0], text.partition(end)[2]
    parts = before, begin, '\n\n', found, '\n\n', end, after
    replace_text(page, ''.join(parts))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, and prints all of it."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    add = parser.add_argument
    add('--networks', nargs='+', choices=list(CASES), default=list(CASES))
    add('--threads', type=int, nargs='+', default=[1, 2])
    add('--backends', nargs='+', default=['torch', 'onnxruntime'])
    add('--rounds', type=int, default=50, help='timed runs of each network')
    add('--points', type=int, default=8, help='widths of the table')
    add('--table-rounds', type=int, default=15, help='runs at each width')
    add('--size', type=int, default=0, help='edge of all images; 0: as usual')
    add(
        '--processor-time',
        action='store_true',
        help='what one thread computes, where other programs run too',
    )
    add('--json', type=Path, default=RESULTS)
    add('--report', type=Path, metavar='PAGE', help='write it; measure none')
    args = parser.parse_args(argv)
    try:
        if args.report:
            put_between(args.report, MARKS, report(args.json))
            return
        if args.processor_time and args.threads != [1]:
            parser.error('--processor-time: with --threads 1 alone')
        clock = 'processor' if args.processor_time else 'wall'
        store = Store(args.json, args.backends, clock)
        for threads in args.threads:
            options = Options(
                threads,
                args.backends,
                args.rounds,
                args.points,
                args.table_rounds,
                args.size,
                args.processor_time,
            )
            for key, job in jobs(args.networks, options):
                if key not in store.results:
                    store.put(key, job())
    except PruningError as error:
        raise SystemExit(f'error: {error}') from error
    print(report(args.json))


if __name__ == '__main__':
    main()
