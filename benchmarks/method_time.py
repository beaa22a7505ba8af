# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a step of the pruning phase costs with each method, over a dense one.

    python benchmarks/method_time.py --json benchmarks/results/method_time.json

ResNet-20 and batches of CIFAR's shape, processor time of one thread. All take
turns step by step, and ratios are taken turn by turn, so that other load
meets all alike. The last number is what a score takes that looks at data, once
before the phase.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accuracy.rows import FAMILY
from step_time import ResNet20, make_step, quartiles
from torch import Tensor, nn

from mmlapp.core import attach

SHAPE, TARGET = (64, 3, 32, 32), 0.5
WARM_UP = 2
# With the settings of the table `family`.
MEMBERS: dict[str, dict[str, Any]] = {
    name: dict(method=row.method, **row.settings)
    for name, row in FAMILY.items()
    if row.method is not None
}


def processor(device: str) -> float:
    """Processor seconds of this process."""
    return time.process_time()


def pruned(
    dense: nn.Module, images: Tensor, settings: Mapping[str, Any], steps: int
) -> tuple[nn.Module, float | None]:
    """A copy at the begin of its phase, and seconds of calibration if any."""
    model = copy.deepcopy(dense)
    pruner = attach(model, images[:1], scope='backbone', **settings)
    seconds = None
    if count := pruner.scorer.score.batches:
        begin = processor('cpu')
        pruner.prepare(model, [lambda: model(images)] * count)
        seconds = processor('cpu') - begin
    pruner.begin({'flops': TARGET}, steps)
    return model, seconds


def measure(
    members: Mapping[str, Mapping[str, Any]],
    steps: int,
    shape: tuple[int, ...] = SHAPE,
) -> dict[str, dict[str, float | None]]:
    """Times members in turns.

    Args:
        members (Mapping): Arguments of ``attach`` by name.
        steps (int): Turns that count.
        shape (tuple[int, ...]): Of a batch. Defaults to 64 images of
            CIFAR's.

    Returns:
        dict: By name ``step``, ``step_low`` and ``step_high``, median and
        quartiles over a dense step, and ``calibration``, in dense steps.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(shape), torch.randint(0, 10, shape[:1])
    dense = ResNet20()
    # A phase ten times as long: its first tenth is looked at, in which the
    # network is as wide as ever.
    pairs = {
        name: pruned(dense, images, settings, 10 * (steps + WARM_UP))
        for name, settings in members.items()
    }
    models = [dense, *(model for model, _ in pairs.values())]
    runs = [make_step(m, images, labels, clock=processor) for m in models]
    turns = [[run() for run in runs] for _ in range(steps + WARM_UP)][WARM_UP:]
    least = statistics.median(turn[0] for turn in turns)
    found: dict[str, dict[str, float | None]] = {}
    for number, (name, (_, seconds)) in enumerate(pairs.items(), start=1):
        ratios = [turn[number] / turn[0] for turn in turns]
        low, high = quartiles(ratios)
        found[name] = {
            'step': statistics.median(ratios),
            'step_low': low,
            'step_high': high,
            'calibration': seconds and seconds / least,
        }
    return found


def line(name: str, row: Mapping[str, float | None]) -> str:
    """What is printed of one member."""
    text = '{step:.2f} ({step_low:.2f} to {step_high:.2f})'.format(**row)
    if row['calibration'] is not None:
        text += f', calibration {row["calibration"]:.0f} dense steps'
    return f'{name}: {text}'


def main() -> None:
    """Prints one line per member: median and quartiles."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--members', nargs='+', choices=list(MEMBERS))
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.members or list(MEMBERS)
    found = measure({name: MEMBERS[name] for name in names}, args.steps)
    for name, row in found.items():
        print(line(name, row))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main()
