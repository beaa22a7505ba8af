# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Dense ResNets on CIFAR-10 and what LAPP and its controls make of them.

    python benchmarks/cifar10.py data/cifar10 lapp --target 0.403 --seed 0
    python benchmarks/cifar10.py data/cifar10 uniform --ignore backbone.conv1

LAPP starts dense; ``uniform`` and ``random`` are its controls, with masks that
are fixed before the training, so that they train from scratch. All rows share
one recipe.

``data/cifar10`` holds ``train/`` and ``test/`` with one folder of images per
class. Every run writes ``<out>/<name>.json`` after its last epoch and a
checkpoint after each one; started again, it goes on where it stopped. A bare
PyTorch loop on tensors held in memory: what is compared is the method, not a
data pipeline.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from mmlapp.core import LAPP, Phase, Pruner, attach
from mmlapp.core.files import replace_file, replace_text
from mmlapp.core.methods.lapp import Balance
from mmlapp.models import CIFARResNet

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
BATCH, PEAK_RATE, WEIGHT_DECAY = 128, 0.4, 5e-4
# Options that each rule of LAPP's thresholds takes.
UPDATES = {
    'balance': ('rate', 'task_weight', 'memory', 'order'),
    'gradient': ('rate', 'cost_weight'),
}


class Classifier(nn.Module):
    """A CIFAR ResNet with its linear layer."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.backbone = CIFARResNet(depth)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [N, 3, 32, 32]."""
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def load_split(root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Reads an image folder into uint8 [N, 3, 32, 32], cached beside it."""
    cache = root / f'{split}.pt'
    if cache.exists():
        images, labels = torch.load(cache, weights_only=True)
        return images, labels
    images, labels = [], []
    folders = sorted(p for p in (root / split).iterdir() if p.is_dir())
    for label, folder in enumerate(folders):
        for path in sorted(folder.iterdir()):
            with Image.open(path) as image:
                images.append(np.asarray(image.convert('RGB')))
            labels.append(label)
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    pair = stacked.contiguous(), torch.tensor(labels)
    temporary = cache.with_suffix(f'.{os.getpid()}.tmp')
    torch.save(pair, temporary)
    os.replace(temporary, cache)
    return pair


def prepare(images: Tensor) -> Tensor:
    """Normalises and puts channels last."""
    shape = (1, 3, 1, 1)
    mean, std = torch.tensor(MEAN).view(shape), torch.tensor(STD).view(shape)
    images = (images.float() - mean) / std
    return images.to(memory_format=torch.channels_last)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random shifts by up to four pixels and mirroring, per image."""
    count = len(images)
    padded = functional.pad(images, (4, 4, 4, 4))
    shift = torch.randint(0, 9, (2, count, 1), generator=generator)
    rows = shift[0] + torch.arange(32)
    columns = shift[1] + torch.arange(32)
    mirror = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[
        index, rows[:, :, None], columns[:, None, :]
    ]
    return moved.permute(0, 3, 1, 2)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent, in float32."""
    model.eval()
    right = 0
    for i in range(0, len(images), 500):
        logits = model(prepare(images[i : i + 500]))
        right += int((logits.argmax(1) == labels[i : i + 500]).sum())
    model.train()
    return 100.0 * right / len(images)


def initialise(model: nn.Module) -> None:
    """Kaiming's initialisation, fan out, of every convolution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out')


def lapp(args: argparse.Namespace) -> dict[str, Any]:
    """LAPP with the asked rule and surrogate."""
    names = UPDATES[args.update]
    update = {'type': args.update, **{n: getattr(args, n) for n in names}}
    surrogate = {'type': args.surrogate, 'width': args.width}
    return {'type': 'lapp', 'update': update, 'surrogate': surrogate}


def uniform(args: argparse.Namespace) -> dict[str, Any]:
    """The same share of every group."""
    return {'type': 'uniform'}


def random(args: argparse.Namespace) -> dict[str, Any]:
    """Other shares with every seed."""
    return {'type': 'random', 'spread': args.spread, 'seed': args.seed}


METHODS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    'lapp': lapp,
    'uniform': uniform,
    'random': random,
}


def build(args: argparse.Namespace) -> tuple[nn.Module, Pruner | None]:
    """Makes the network of the asked row; a control is pruned already."""
    torch.manual_seed(args.seed)
    model = Classifier(args.depth)
    initialise(model)
    pruner = None
    if args.method != 'dense':
        pruner = attach(
            model,
            torch.zeros(1, 3, 32, 32),
            scope=args.scope.split(','),
            ignore=[p for p in args.ignore.split(',') if p],
            unit=args.unit,
            bypass=None if args.bypass == 'none' else args.bypass,
            method=METHODS[args.method](args),
            score=args.score,
            normalisation=args.normalisation,
        )
        if args.method != 'lapp':
            # Which filters of a random layer are kept does not matter.
            pruner.begin({'flops': args.target}, steps=1)
            pruner.step()
    return model.to(memory_format=torch.channels_last), pruner


def recipe(
    model: nn.Module, steps: int, warmup: float = 0.3
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Optimizer and learning rate of all rows."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=steps, pct_start=warmup
    )
    return optimizer, scheduler


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains one row to the end and returns its results."""
    train, test = (load_split(args.data, s) for s in ('train', 'test'))
    if args.subset:
        keep = torch.randperm(
            len(train[0]), generator=torch.Generator().manual_seed(1)
        )[: args.subset]
        train = (train[0][keep], train[1][keep])
    model, pruner = build(args)
    steps = len(train[0]) // BATCH
    optimizer, scheduler = recipe(model, args.epochs * steps, args.warmup)
    checkpoint = args.out / f'{args.name}.pt'
    history: list[dict[str, Any]] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state['model'])
        optimizer.load_state_dict(state['optimizer'])
        scheduler.load_state_dict(state['scheduler'])
        history = state['history']
    for epoch in range(len(history), args.epochs):
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(1000 * args.seed + epoch)
        order = torch.randperm(len(train[0]), generator=generator)
        losses = []
        for step in range(steps):
            first = epoch * steps + step == int(args.begin * steps)
            if pruner and pruner.phase == Phase.DENSE and first:
                pruner.begin(
                    {'flops': args.target}, int(args.prune_epochs * steps)
                )
            index = order[step * BATCH : (step + 1) * BATCH]
            images = augment(prepare(train[0][index]), generator)
            with torch.autocast('cpu', torch.bfloat16, enabled=args.amp):
                logits = model(images)
            loss = functional.cross_entropy(logits.float(), train[1][index])
            losses.append(loss.item())
            if pruner:
                loss = loss + pruner.loss()
            loss.backward()
            optimizer.step()
            if pruner and pruner.phase == Phase.PRUNING:
                pruner.step()
            optimizer.zero_grad()
            scheduler.step()
        row = {
            'epoch': epoch + 1,
            'loss': float(np.mean(losses)),
            'accuracy': evaluate(model, *test),
            'seconds': time.perf_counter() - started,
        }
        if pruner:
            row |= report(pruner)
        history.append(row)
        print(json.dumps(row), flush=True)
        state = {
            'model': model.state_dict(),
            'optimizer': optimizer.state_dict(),
            'scheduler': scheduler.state_dict(),
            'history': history,
        }
        replace_file(checkpoint, partial(torch.save, state))
    return {
        'name': args.name,
        'arguments': {
            k: v for k, v in vars(args).items() if k not in ('data', 'out')
        },
        'accuracy': history[-1]['accuracy'],
        'flops': pruner.ratios()['flops'] if pruner else 1.0,
        'seconds': sum(r['seconds'] for r in history),
        'history': history,
    }


def report(pruner: Pruner) -> dict[str, Any]:
    """What the history of a run notes of its pruning."""
    row: dict[str, Any] = {
        'flops': pruner.ratios()['flops'],
        'keep': pruner.keep_ratios(),
    }
    if isinstance(pruner.method, LAPP):
        update, threshold = pruner.method.update, pruner.method.threshold
        if isinstance(update, Balance):
            row['signal'] = update.signal().tolist()
        row['threshold'] = [round(t, 4) for t in threshold.tolist()]
    return row


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('method', choices=['dense', *METHODS])
    parser.add_argument('--name')
    parser.add_argument('--out', type=Path, default='work_dirs/cifar10')
    parser.add_argument('--depth', type=int, default=20)
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--warmup', type=float, default=0.3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--subset', type=int, default=0)
    parser.add_argument('--target', type=float, default=0.403)
    parser.add_argument('--begin', type=float, default=0.5)
    parser.add_argument('--prune-epochs', type=float, default=3)
    parser.add_argument('--scope', default='backbone')
    parser.add_argument('--ignore', default='')
    parser.add_argument('--unit', default='channels')
    parser.add_argument('--bypass', default='none')
    parser.add_argument('--score', default='l2')
    parser.add_argument('--normalisation', default='rank')
    parser.add_argument('--surrogate', default='sigmoid')
    parser.add_argument('--width', type=float, default=0.1)
    parser.add_argument('--update', choices=list(UPDATES), default='balance')
    parser.add_argument('--rate', type=float, default=5.0)
    parser.add_argument('--task-weight', type=float, default=0.3)
    parser.add_argument('--order', type=int, default=2)
    parser.add_argument('--memory', type=float, default=0.1)
    parser.add_argument('--cost-weight', type=float, default=1.0)
    parser.add_argument(
        '--spread', type=float, default=0.5, help='of random rates'
    )
    args = parser.parse_args(argv)
    branch = [args.unit, args.bypass] if args.bypass != 'none' else []
    args.name = args.name or '-'.join(
        [args.method, *branch, f'seed{args.seed}']
    )
    return args


def main() -> None:
    """Runs one row and writes its results."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    result = run(args)
    path = args.out / f'{args.name}.json'
    replace_text(path, json.dumps(result, indent=1) + '\n')
    print(
        f'{args.name}: {result["accuracy"]:.2f} % at '
        f'{result["flops"]:.4f} of the FLOPs, {result["seconds"]:.0f} s'
    )


if __name__ == '__main__':
    main()
