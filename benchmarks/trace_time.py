# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the analysis, beside Torch-Pruning's dependency graph.

    pip install torch-pruning
    python benchmarks/trace_time.py --json trace_time.json

Both take turns in one process. Ours is timed twice: the forward with labels
alone, which is what a dependency graph does, and the whole analysis, with
channel groups, FLOPs and the trial on which the network is narrowed. Memory
is the peak above that of the model, over all activations of one image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn
from zoo.memory import peak_memory

from mmlapp.core import analyse
from mmlapp.core.files import replace_text
from mmlapp.core.trace import trace

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


def measure(name: str, repeats: int) -> dict[str, float]:
    """Medians of one network."""
    model = torchvision.models.get_model(name, weights=None).eval()
    image = torch.rand(1, 3, 224, 224)

    def forward() -> Any:
        return model(image)

    def graph() -> Any:
        return torch_pruning.DependencyGraph().build_dependency(model, image)

    jobs = {
        'labels': lambda: trace(model, forward),
        'analysis': lambda: analyse(model, forward),
        'torch_pruning': graph,
    }
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


def main() -> None:
    """Prints a line per network."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--networks', nargs='+', default=NETWORKS)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    rows = {}
    for name in args.networks:
        row = rows[name] = measure(name, args.repeats)
        print(
            f'{name}: labels {row["labels"]:.2f} s, whole analysis '
            f'{row["analysis"]:.2f} s, Torch-Pruning '
            f'{row["torch_pruning"]:.2f} s; memory '
            f'{row["memory_ratio"]:.2f} times the activations',
            flush=True,
        )
    if args.json:
        replace_text(args.json, json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()
