# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step in the pruning phase over that of the dense model.

    python benchmarks/step_time.py --json step_time.json

Both models take turns in one process, step by step, so that a change of the
machine's speed meets both; the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from mmlapp.core import attach
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


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    'ResNet-20': (ResNet20, (128, 3, 32, 32)),
    'ResNet-18': (resnet18, (16, 3, 224, 224)),
}


def make_step(
    model: nn.Module, images: Tensor, labels: Tensor
) -> Callable[[], float]:
    """Returns a training step that returns its seconds."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    lapp = getattr(model, 'lapp', None)

    def step() -> float:
        started = time.perf_counter()
        loss = functional.cross_entropy(model(images), labels)
        if lapp is not None:
            loss = loss + lapp.loss()
        loss.backward()
        optimizer.step()
        if lapp is not None:
            lapp.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    return step


def measure(name: str, steps: int) -> dict[str, float]:
    """Times one network; the first three pairs warm up."""
    build, shape = CASES[name]
    torch.manual_seed(0)
    images, labels = torch.randn(shape), torch.randint(0, 10, shape[:1])
    dense = build().to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    pruned = copy.deepcopy(dense)
    lapp = attach(pruned, images[:1])
    lapp.begin(0.5, 100 * steps)
    runs = [make_step(m, images, labels) for m in (dense, pruned)]
    pairs = [[run() for run in runs] for _ in range(steps + 3)][3:]
    ratios = sorted(b / a for a, b in pairs)
    return {
        'dense_seconds': statistics.median(a for a, _ in pairs),
        'pruning_seconds': statistics.median(b for _, b in pairs),
        'ratio': statistics.median(ratios),
        'ratio_low': ratios[len(ratios) // 4],
        'ratio_high': ratios[-1 - len(ratios) // 4],
    }


def main() -> None:
    """Prints one line per network."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=30)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    results = {}
    for name in CASES:
        row = results[name] = measure(name, args.steps)
        print(
            f'{name}: dense {row["dense_seconds"]:.3f} s, pruning phase '
            f'{row["pruning_seconds"]:.3f} s, ratio {row["ratio"]:.3f} '
            f'(quartiles {row["ratio_low"]:.3f} to {row["ratio_high"]:.3f})',
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    main()
