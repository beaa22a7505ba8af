# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the analysis, beside other tools or another commit.

    python benchmarks/trace_time.py --json trace_time.json
    pip install torch-pruning
    python benchmarks/trace_time.py --json trace_time.json
    git worktree add ../before COMMIT
    python benchmarks/trace_time.py --reference ../before

All take turns in one process. Ours is timed twice: the forward with labels
alone, which is what a dependency graph does, and the whole analysis, with
channel groups, FLOPs and the trial on which the network is narrowed. Where
Torch-Pruning is installed, its dependency graph is timed too. Memory is the
peak above that of the model, over all activations of one image.

With a reference, processor seconds of the whole analysis of this tree and of
the other one are compared instead. Every turn runs each in a process of its
own, one after the other, and in the other order the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from zoo.memory import peak_memory

from mmlapp.core import analyse
from mmlapp.core.files import replace_text
from mmlapp.core.trace import trace

ROOT = Path(__file__).resolve().parents[1]
CHILD = ROOT / 'benchmarks' / 'analysis_seconds.py'
OTHER = 'torch_pruning'
NETWORKS = (
    'resnet18',
    'resnet50',
    'mobilenet_v2',
    'efficientnet_b0',
    'densenet121',
    'regnet_y_1_6gf',
    'resnet101',
)


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def activations(model: nn.Module, image: Tensor) -> int:
    """Bytes of the outputs of all modules without children."""
    total = 0

    def note(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.nbytes

    leaves = [m for m in model.modules() if not list(m.children())]
    handles = [m.register_forward_hook(note) for m in leaves]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return total


def jobs_of(model: nn.Module, image: Tensor) -> dict[str, Callable[[], Any]]:
    """What is timed of a network, by column."""
    jobs: dict[str, Callable[[], Any]] = {
        'labels': lambda: trace(model, lambda: model(image)),
        'analysis': lambda: analyse(model, image),
    }
    if find_spec(OTHER):
        graph = import_module(OTHER).DependencyGraph
        jobs[OTHER] = lambda: graph().build_dependency(model, image)
    return jobs


def measure(name: str, repeats: int) -> dict[str, float]:
    """Medians of one network."""
    model = torchvision.models.get_model(name, weights=None).eval()
    jobs = jobs_of(model, torch.rand(1, 3, 224, 224))
    for job in jobs.values():
        job()
    turns = [
        {key: seconds(job) for key, job in jobs.items()}
        for _ in range(repeats)
    ]
    row = {key: statistics.median(t[key] for t in turns) for key in jobs}
    with get_context('spawn').Pool(1) as fresh:  # nothing to use again
        row['memory_ratio'] = fresh.apply(memory_ratio, (name,))
    return row


def memory_ratio(name: str) -> float:
    """Peak of the forward with labels, over the activations."""
    model = torchvision.models.get_model(name, weights=None).eval()
    trace(model, lambda: model(torch.rand(1, 3, 64, 64)))
    image = torch.rand(1, 3, 224, 224)
    with peak_memory() as peak:
        trace(model, lambda: model(image))
    return peak[0] * 2**20 / activations(model, image)


def in_tree(tree: Path, networks: Sequence[str]) -> dict[str, float]:
    """Processor seconds of the analysis with the sources of a tree."""
    result = subprocess.run(
        [sys.executable, str(CHILD), *networks],
        env={**os.environ, 'PYTHONPATH': str(tree)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(result.stdout)
    return found


def compare(
    reference: Path, networks: Sequence[str], repeats: int
) -> dict[str, dict[str, float]]:
    """Medians and least times of both trees, by network."""
    trees = {'ours': ROOT, 'reference': reference}
    turns = []
    for number in range(repeats):
        order = list(trees) if number % 2 else list(trees)[::-1]
        turns.append({key: in_tree(trees[key], networks) for key in order})
    rows = {}
    for name in networks:
        row = rows[name] = dict[str, float]()
        for key in trees:
            times = [turn[key][name] for turn in turns]
            row[key], row[f'{key}_least'] = (
                statistics.median(times),
                min(times),
            )
        row['ratio'] = row['ours'] / row['reference']
        row['least_ratio'] = row['ours_least'] / row['reference_least']
    return rows


def line(name: str, row: dict[str, float]) -> str:
    """What is printed of one network."""
    if 'ratio' in row:
        return (
            f'{name}: {row["ours"]:.2f} s, reference {row["reference"]:.2f} '
            f's, ratio {row["ratio"]:.2f} of medians, '
            f'{row["least_ratio"]:.2f} of least times'
        )
    other = f', Torch-Pruning {row[OTHER]:.2f} s' if OTHER in row else ''
    return (
        f'{name}: labels {row["labels"]:.2f} s, whole analysis '
        f'{row["analysis"]:.2f} s{other}; memory '
        f'{row["memory_ratio"]:.2f} times the activations'
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--networks', nargs='+', default=NETWORKS)
    parser.add_argument('--repeats', type=int, default=5, help='turns')
    parser.add_argument(
        '--reference', type=Path, help='folder of another commit'
    )
    parser.add_argument('--json', type=Path)
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f'--repeats {args.repeats}: expected at least 1')
    if args.reference and not (args.reference / 'mmlapp' / 'core').is_dir():
        parser.error(f'--reference {args.reference}: there is no mmlapp/core')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line per network."""
    args = parse_args(argv)
    rows = {}
    if args.reference:
        reference = args.reference.resolve()
        rows = compare(reference, args.networks, args.repeats)
        print(*(line(*item) for item in rows.items()), sep='\n')
    for name in () if args.reference else args.networks:
        rows[name] = measure(name, args.repeats)
        print(line(name, rows[name]), flush=True)
    if args.json:
        replace_text(args.json, json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
