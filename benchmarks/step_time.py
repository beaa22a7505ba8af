# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step with masks and after narrowing, over the dense one.

    python benchmarks/step_time.py --json step_time.json
    python benchmarks/step_time.py --networks ResNet-18 --divisor 16
    python benchmarks/step_time.py --batch 64 --device cuda --dtype bfloat16

All models take turns in one process, step by step and in all orders, so that
a change of the machine's speed meets them all; ratios are taken turn by turn.
The last column is a whole run whose pruning phase is a tenth of it.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18, resnet50

from mmlapp.core import attach, narrow
from mmlapp.models import CIFARResNet


class ResNet20(nn.Module):
    """The CIFAR network with its linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = CIFARResNet(20)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [N, 3, 32, 32]."""
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


PHASE = 0.1  # of the run
# network, batch of images, asked fraction of the FLOPs
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    'ResNet-20': (ResNet20, (128, 3, 32, 32), 0.4),
    'ResNet-18': (resnet18, (16, 3, 224, 224), 0.444),
    'ResNet-50': (resnet50, (8, 3, 224, 224), 0.5),
}


def now(device: str) -> float:
    """Seconds of the clock, once a GPU has done all that it was given."""
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()


def make_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    dtype: torch.dtype = torch.float32,
    clock: Callable[[str], float] = now,
) -> Callable[[], float]:
    """Returns a training step, cast to a type, that returns its seconds."""
    device = images.device.type
    cast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    pruner = getattr(model, 'pruner', None)

    def step() -> float:
        started = clock(device)
        with cast:
            loss = functional.cross_entropy(model(images), labels)
        if pruner is not None:
            loss = loss + pruner.loss()
        loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()
        optimizer.zero_grad()
        return clock(device) - started

    return step


def narrowed(
    dense: nn.Module,
    images: Tensor,
    target: float,
    divisor: int,
    unit: str = 'channels',
) -> nn.Module:
    """A copy at the end of its pruning phase; all groups alike."""
    model = copy.deepcopy(dense)
    pruner = attach(
        model, images[:1], method='uniform', divisor=divisor, unit=unit
    )
    pruner.begin({'flops': target}, 1)
    pruner.step()
    narrow(model, pruner.plan())
    return model


def measure(
    name: str,
    steps: int,
    batch: int | None,
    divisor: int,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Times one network; the first three turns warm up."""
    build, shape, target = CASES[name]
    shape = (batch or shape[0], *shape[1:])
    torch.manual_seed(0)
    images, labels = torch.randn(shape), torch.randint(0, 10, shape[:1])
    images, labels = images.to(device), labels.to(device)
    dense = build().to(device, memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    pruned = copy.deepcopy(dense)
    attach(pruned, images[:1]).begin({'flops': target}, 100 * (steps + 3))
    slim = narrowed(dense, images, target, divisor)
    runs = [make_step(m, images, labels, dtype) for m in (dense, pruned, slim)]
    orders = itertools.cycle(itertools.permutations(range(len(runs))))
    turns = [turn(runs, next(orders)) for _ in range(steps + 3)][3:]
    columns = {
        'pruning': [b / a for a, b, _ in turns],
        'narrow': [c / a for a, _, c in turns],
        'run': [(PHASE * b + (1 - PHASE) * c) / a for a, b, c in turns],
    }
    result = {
        'share': target,
        'divisor': divisor,
        'batch': shape[0],
        'device': device_name(device),
    }
    for kind, column in zip(
        ('dense', 'pruning', 'narrow'), zip(*turns, strict=True), strict=True
    ):
        result[f'{kind}_seconds'] = statistics.median(column)
    for kind, ratios in columns.items():
        low, high = quartiles(ratios)
        result[f'{kind}_ratio'] = statistics.median(ratios)
        result[f'{kind}_ratio_low'] = low
        result[f'{kind}_ratio_high'] = high
    return result


def device_name(device: str) -> str:
    """What is measured on, by the name of its maker."""
    return torch.cuda.get_device_name() if device == 'cuda' else device


def turn(
    runs: list[Callable[[], float]], order: tuple[int, ...]
) -> list[float]:
    """Runs all once; which comes after which changes, for it matters."""
    seconds = [0.0] * len(runs)
    for i in order:
        seconds[i] = runs[i]()
    return seconds


def quartiles(values: list[float]) -> tuple[float, float]:
    """Lower and upper quartile."""
    ordered, quarter = sorted(values), len(values) // 4
    return ordered[quarter], ordered[-1 - quarter]


def line(name: str, row: dict[str, Any]) -> str:
    """What is printed of one network."""
    parts = [
        f'{text} {row[f"{kind}_ratio"]:.3f} '
        f'({row[f"{kind}_ratio_low"]:.3f} to {row[f"{kind}_ratio_high"]:.3f})'
        for kind, text in (
            ('pruning', 'pruning step'),
            ('narrow', 'narrow step'),
            ('run', f'run with {PHASE:.0%} of pruning'),
        )
    ]
    return (
        f'{name} at {row["share"]:.1%} of the FLOPs, multiples of '
        f'{row["divisor"]}, dense step '
        f'{row["dense_seconds"]:.4f} s = 1: ' + ', '.join(parts)
    )


def main() -> None:
    """Prints one line per network: medians and quartiles."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=30)
    parser.add_argument('--batch', type=int, help='images per step')
    parser.add_argument(
        '--divisor',
        type=int,
        nargs='+',
        default=[1],
        help='of the kept channels, one after the other',
    )
    parser.add_argument(
        '--networks', nargs='+', choices=list(CASES), default=list(CASES)
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument(
        '--dtype',
        nargs='+',
        choices=['float32', 'bfloat16', 'float16'],
        default=['float32'],
        help='that operators are cast to; the loss is not scaled',
    )
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    results = {}
    for name, dtype, divisor in itertools.product(
        args.networks, args.dtype, args.divisor
    ):
        row = measure(
            name,
            args.steps,
            args.batch,
            divisor,
            args.device,
            getattr(torch, dtype),
        )
        label = name if dtype == 'float32' else f'{name}, {dtype}'
        results[f'{label}, divisor {divisor}'] = row
        print(line(label, row), flush=True)
        if args.json:  # each time: a stopped run keeps what it has
            args.json.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    main()
