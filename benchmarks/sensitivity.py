# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the gradient of the task loss by the gate says about ResNet-20.

    python benchmarks/sensitivity.py data/cifar10 --out sensitivity.json

Trains on CIFAR-10 as benchmarks/accuracy does, prunes all groups alike for
an epoch (``task_weight=0``) and compares, per group, all kinds of
sensitivity per FLOP, each step's divided by their root mean square over the
groups: the mean over the steps in standard errors, and relative to the mean
over the groups in the first and the second half of the epoch.
"""

from __future__ import annotations

import argparse
import json
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from accuracy.data import Images, load_split
from accuracy.network import classifier
from accuracy.training import Recipe
from torch import Tensor
from torch.nn import functional

from mmlapp.core import LAPP, Pruner, attach
from mmlapp.core.files import replace_text
from mmlapp.core.methods.lapp import Balance
from mmlapp.core.methods.lapp.sensitivity import SENSITIVITIES, Margin


class Recorder(Balance):
    """Pulls all groups alike and writes down what the gate's gradient says.

    Attributes:
        record (list[Tensor]): All sensitivities of every step,
            ``[kinds, groups]`` each.
    """

    def __init__(self) -> None:
        super().__init__(task_weight=0)
        self.record: list[Tensor] = []

    def change(self, margin: Margin, steps: int) -> Tensor:
        """As the balance, with a record of all sensitivities."""
        found = [kind(margin) for kind in SENSITIVITIES.values()]
        self.record.append(torch.stack(found))
        return super().change(margin, steps)


def train(
    model: torch.nn.Module, pruner: Pruner, data: Any, args: Any
) -> None:
    """Half an epoch dense, then an epoch of pruning."""
    recipe = Recipe(epochs=15)
    images = Images(*data, recipe.batch, torch.device('cpu'))
    steps = args.steps or images.steps
    optimizer = recipe.optimizer(model)
    scheduler = recipe.schedule(optimizer, recipe.epochs * steps)
    batches = (b for epoch in count() for b in images.epoch(args.seed, epoch))
    for step, (batch, labels) in enumerate(
        islice(batches, steps // 2 + steps)
    ):
        if step == steps // 2:
            pruner.begin({'flops': args.target}, 2 * steps)
        loss = functional.cross_entropy(model(batch), labels)
        (loss + pruner.loss()).backward()
        optimizer.step()
        if step >= steps // 2:
            pruner.step()
        optimizer.zero_grad()
        scheduler.step()
        if step % 20 == 0:
            print(f'step {step}: loss {loss.item():.3f}', flush=True)


def summarise(record: Tensor, names: list[str]) -> dict[str, Any]:
    """Statistics of sensitivities in [steps, groups]."""
    record = record / record.square().mean(1, keepdim=True).sqrt()
    error = record.std(0) / len(record) ** 0.5
    first, second = record.chunk(2)
    return {
        'mean in standard errors': _table(names, record.mean(0) / error),
        'relative, first half': _table(names, first.mean(0) / first.mean()),
        'relative, second half': _table(names, second.mean(0) / second.mean()),
    }


def _table(names: list[str], values: Tensor) -> dict[str, float]:
    return {n: round(float(v), 3) for n, v in zip(names, values, strict=True)}


def main() -> None:
    """Runs and writes the statistics."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--target', type=float, default=0.403)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--steps', type=int, default=0, help='per epoch')
    args = parser.parse_args()
    model = classifier(20, args.seed)
    recorder = Recorder()
    pruner = attach(
        model,
        torch.zeros(1, 3, 32, 32),
        scope='backbone',
        method=LAPP(update=recorder),
    )
    model.to(memory_format=torch.channels_last)
    train(model, pruner, load_split(args.data, 'train'), args)
    names = [g.name for g in pruner.groups]
    # [steps, kinds, groups], one kind after the other.
    records = torch.stack(recorder.record).unbind(1)
    result = {
        kind: summarise(record, names)
        for kind, record in zip(SENSITIVITIES, records, strict=True)
    }
    replace_text(args.out, json.dumps(result, indent=1) + '\n')
    print(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
