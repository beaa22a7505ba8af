# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What each ingredient of training gains, on the cheapest carrier.

    python benchmarks/ingredients.py data/cifar10 --seeds 0 1 2
    python benchmarks/ingredients.py data/cifar10 --rows plain repvgg
    python benchmarks/ingredients.py --report

The carrier is ResNet-20 with the same share of every group, narrowed before
it trains, on a part of CIFAR-10 and a short schedule: good for ranks, not for
accuracies. All rows leave the same FLOPs at deployment; branches are merged
there and cost nothing. A row and a seed is a file in ``<out>``; what is there
is not run again. Rows of one seed share initial weights as far as they have
the same, and the order of images: differences are taken seed by seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cifar10 import (
    BATCH,
    Classifier,
    augment,
    evaluate,
    initialise,
    load_split,
    prepare,
    recipe,
)
from torch import Tensor, nn
from torch.nn import functional

from mmlapp.core import attach, merge_bypasses, narrow
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.bypass.beside import add_bypass
from mmlapp.core.files import replace_text

RESULTS = Path(__file__).parent / 'results' / 'ingredients.json'
# Stem of the residual stream: without it widths of blocks alone shrink.
STREAM = 'backbone.conv1'


@dataclass(frozen=True)
class Row:
    """What one row does otherwise than the plain narrow network.

    Args:
        bypass (str): Branches beside every convolution of the blocks, which
            are merged. Defaults to none.
        dense (bool): Whether nothing is removed.
        stream (bool): Whether the residual stream is narrowed as well.
        cost (bool): Whether as many epochs as cost what dense training does.
        average (float): Momentum of an average of the weights, 0 for none.
    """

    bypass: str = ''
    dense: bool = False
    stream: bool = False
    cost: bool = False
    average: float = 0.0


ROWS = {
    'dense': Row(dense=True),
    'plain': Row(),
    'stream': Row(stream=True),
    'twin': Row(bypass='twin'),
    'asymmetric': Row(bypass='asymmetric'),
    'repvgg': Row(bypass='repvgg'),
    'average': Row(average=0.02),
    'cost': Row(cost=True),
    'cost-asymmetric': Row(cost=True, bypass='asymmetric'),
    'cost-average': Row(cost=True, average=0.02),
}


def add_branches(model: nn.Module, kind: str) -> None:
    """Puts branches beside every convolution of the blocks."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and name != STREAM:
            add_bypass(module, BRANCHES.build(kind, module))


def build(row: Row, args: argparse.Namespace, seed: int) -> nn.Module:
    """Makes the network of a row, narrow from the start."""
    torch.manual_seed(seed)
    model: nn.Module = Classifier(args.depth)
    initialise(model)
    if not row.dense:
        pruner = attach(
            model,
            torch.zeros(1, 3, 32, 32),
            scope='backbone',
            ignore=() if row.stream else STREAM,
            method='uniform',
            divisor=args.divisor,
        )
        pruner.begin({'flops': args.target}, steps=1)
        pruner.step()
        pruner.finish()
        narrow(model, pruner.plan())
    # New weights: those of a dense layer are too small for a narrow one.
    initialise(model)
    if row.bypass:
        add_branches(model, row.bypass)
    return model.to(memory_format=torch.channels_last)


def epochs_of(row: Row, args: argparse.Namespace) -> int:
    """As many as are asked, or as cost what dense training costs."""
    return round(args.epochs / args.target) if row.cost else args.epochs


def train(
    model: nn.Module,
    row: Row,
    images: tuple[Tensor, Tensor],
    epochs: int,
    seed: int,
    amp: bool = False,
) -> nn.Module:
    """Trains a network; returns what is to be deployed."""
    pixels, labels = images
    steps = len(pixels) // BATCH
    optimizer, scheduler = recipe(model, epochs * steps)
    mean = copy.deepcopy(model) if row.average else model
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        order = torch.randperm(len(pixels), generator=generator)
        for step in range(steps):
            index = order[step * BATCH : (step + 1) * BATCH]
            batch = augment(prepare(pixels[index]), generator)
            with torch.autocast('cpu', torch.bfloat16, enabled=amp):
                logits = model(batch)
            loss = functional.cross_entropy(logits.float(), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if row.average:
                follow(mean, model, row.average)
    return mean


@torch.no_grad()
def follow(mean: nn.Module, model: nn.Module, share: float) -> None:
    """Moves an average of all tensors towards those of a model."""
    for old, new in zip(
        mean.state_dict().values(), model.state_dict().values(), strict=True
    ):
        if old.is_floating_point():
            old.lerp_(new, share)
        else:
            old.copy_(new)


def run(name: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Trains one row with one seed."""
    row = ROWS[name]
    (pixels, labels), test = (
        load_split(args.data, split) for split in ('train', 'test')
    )
    keep = torch.randperm(
        len(pixels), generator=torch.Generator().manual_seed(1)
    )[: args.subset]
    started = time.process_time()
    model = build(row, args, seed)
    epochs = epochs_of(row, args)
    images = pixels[keep], labels[keep]
    model = train(model, row, images, epochs, seed, args.amp)
    seconds = time.process_time() - started
    before = evaluate(model, *test)
    merge_bypasses(model.eval())
    after = evaluate(model, *test)
    # Merged in float32: images at the border of two classes may change.
    assert abs(after - before) < 0.1, (before, after)
    return {
        'row': name,
        'seed': seed,
        'epochs': epochs,
        'accuracy': after,
        'parameters': sum(p.numel() for p in model.parameters()),
        'seconds': seconds,
        'subset': args.subset,
        'target': args.target,
        'divisor': args.divisor,
        'amp': args.amp,
    }


def run_all(args: argparse.Namespace) -> None:
    """Runs what is not there yet, seed by seed."""
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.rows:
            path = args.out / f'{name}-s{seed}.json'
            if not path.exists():
                result = run(name, args, seed)
                replace_text(path, json.dumps(result, indent=1) + '\n')
                print(json.dumps(result), flush=True)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; nan where there is none."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    return statistics.mean(values), statistics.stdev(values)


def table(results: Sequence[dict[str, Any]], base: str = 'plain') -> str:
    """A Markdown table with differences to a row, seed by seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for result in results:
        found.setdefault(result['row'], {})[result['seed']] = result
    lines = [
        f'| row | epochs | seeds | accuracy | minus {base} | seconds |',
        '|---|---|---|---|---|---|',
    ]
    for name in [name for name in ROWS if name in found]:
        runs = found[name]
        shared = sorted(runs.keys() & found.get(base, {}).keys())
        found_here = {s: r['accuracy'] for s, r in runs.items()}
        mean, deviation = mean_and_deviation(list(found_here.values()))
        gain, gains = mean_and_deviation(
            [found_here[s] - found[base][s]['accuracy'] for s in shared]
        )
        error = gains / max(len(shared), 1) ** 0.5
        first = next(iter(runs.values()))
        seconds = statistics.median(r['seconds'] for r in runs.values())
        lines.append(
            f'| {name} | {first["epochs"]} | {len(runs)} '
            f'| {mean:.2f} ± {deviation:.2f} | {gain:+.2f} ± {error:.2f} '
            f'| {seconds:.0f} |'
        )
    return '\n'.join(lines)


def report(args: argparse.Namespace) -> None:
    """Collects all runs into one file and prints the table."""
    results = [
        json.loads(path.read_text('utf-8'))
        for path in sorted(args.out.glob('*.json'))
    ]
    replace_text(RESULTS, json.dumps(results, indent=1) + '\n')
    print(table(results))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', type=Path, nargs='?')
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--out', type=Path, default='work_dirs/ingredients')
    parser.add_argument('--depth', type=int, default=20)
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--subset', type=int, default=8000)
    parser.add_argument('--target', type=float, default=0.403)
    parser.add_argument('--divisor', type=int, default=1)
    parser.add_argument('--amp', action='store_true', help='bfloat16')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument(
        '--report', action='store_true', help='only tell what there is'
    )
    return parser.parse_args(argv)


def main() -> None:
    """Runs the rows, or reports them."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.report:
        report(args)
    else:
        run_all(args)


if __name__ == '__main__':
    main()
