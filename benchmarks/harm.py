# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Does what a score says of a channel predict the loss without it?

    python benchmarks/harm.py data/cifar10 WEIGHTS --json harm.json

``WEIGHTS`` are those of a trained ResNet-20, which ``benchmarks/accuracy``
leaves for networks that learn from it. Every channel is removed alone, by
brute force, and the rise of the loss on images of the training set is compared
with every score of the product (Spearman's correlation, over all channels and
as the mean within the groups). Likewise for the next tenth of every group, of
networks from which more and more is gone, per cost, and the sensitivities by
which LAPP moves its thresholds.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accuracy.build import EXAMPLE, SCOPE
from accuracy.data import load_split, part_of, prepare
from accuracy.run import trained
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from mmlapp.core import Pruner, attach
from mmlapp.core.files import replace_text

SCORES = 'l1', 'l2', 'bn_scale', 'fpgm'
BATCH = 128
# What every group keeps where its next tenth is removed.
LEVELS = 1.0, 0.8, 0.6, 0.4

Images = tuple[Tensor, Tensor]


@torch.no_grad()
def loss_of(model: nn.Module, images: Images) -> float:
    """Mean cross entropy, in evaluation mode."""
    pixels, labels = images
    total = sum(
        functional.cross_entropy(model(x), y, reduction='sum')
        for x, y in zip(pixels.split(1000), labels.split(1000), strict=True)
    )
    return float(total) / len(labels)


def rise(
    model: nn.Module, pruner: Pruner, images: Images, masks: Sequence[Tensor]
) -> Tensor:
    """How much higher the loss is with each of some masks than as it is."""
    known = pruner.mask.clone()
    before = loss_of(model, images)
    found = []
    for mask in masks:
        pruner.set_mask(mask)
        found.append(loss_of(model, images) - before)
    pruner.set_mask(known)
    return torch.tensor(found)


def gradients(model: nn.Module, pruner: Pruner, images: Images) -> Tensor:
    """Gradient of the loss by the gate on every batch, [batches, channels]."""
    gate: Any = pruner.gate
    found = []
    for x, y in zip(*(t.split(BATCH) for t in images), strict=True):
        gate.requires_grad_(True).grad = None
        functional.cross_entropy(model(x), y).backward()
        found.append(gate.grad.clone())
    gate.requires_grad_(False).grad = None
    return torch.stack(found)


def scores(model: nn.Module, gate: Tensor) -> dict[str, Tensor]:
    """All scores, each divided by its mean over the group, by name."""
    found: dict[str, Tensor] = {}
    for name in SCORES:
        other = attach(
            copy.deepcopy(model),
            EXAMPLE,
            scope=SCOPE,
            score=name,
            normalisation='mean',
        )
        found[name] = other.scorer.compute(other.groups)
    return found | {
        'first order, -p': -gate.mean(0),
        'taylor, mean p^2': gate.square().mean(0),
    }


def correlations(
    predicted: Tensor, truth: Tensor, group: Tensor
) -> dict[str, float]:
    """Spearman's, over all channels and as the mean within the groups."""
    inside = [
        float(spearmanr(predicted[group == g], truth[group == g]).statistic)
        for g in group.unique()
    ]
    return {
        'all': float(spearmanr(predicted, truth).statistic),
        'within groups': sum(inside) / len(inside),
    }


def next_channels(pruner: Pruner, order: Tensor, keep: float) -> list[Tensor]:
    """The network at a level, then without the next tenth of each group."""
    level = torch.zeros_like(pruner.mask)
    nexts = []
    start = 0
    for group in pruner.groups:
        # Highest first: the least of those that are kept go next.
        ranked = order[start : start + group.size].argsort(descending=True)
        kept = max(round(keep * group.size), 2)
        gone = min(max(round(group.size / 10), 1), kept - 1)
        level[start + ranked[:kept]] = True
        nexts.append(start + ranked[kept - gone : kept])
        start += group.size
    masks = [level.clone() for _ in nexts]
    for mask, channels in zip(masks, nexts, strict=True):
        mask[channels] = False
    return [level, *masks]


def margins(
    model: nn.Module, pruner: Pruner, images: Images, order: Tensor
) -> dict[str, Any]:
    """Predicted and true rise per cost at the margin, by level and group."""
    found: dict[str, Tensor] = {}
    flops: Callable[[Tensor], Tensor] = pruner.cost('flops')
    for keep in LEVELS:
        level, *masks = next_channels(pruner, order, keep)
        pruner.set_mask(level)
        gate = gradients(model, pruner, images)
        # [groups, channels]: what goes; [groups]: the cost that goes with it.
        gone = torch.stack([level & ~mask for mask in masks]).float()
        cost = torch.stack(
            [flops(level.float()) - flops(mask.float()) for mask in masks]
        )
        here = {
            'truth': rise(model, pruner, images, masks),
            **{name: rule(gate, gone) for name, rule in RULES.items()},
        }
        for name, values in here.items():
            known = found.get(name, values[:0])
            found[name] = torch.cat([known, values / cost])
    pruner.set_mask(torch.ones_like(pruner.mask))
    truth = found.pop('truth')
    return {
        'points': len(truth),
        'spearman': {
            name: float(spearmanr(values, truth).statistic)
            for name, values in found.items()
        },
    }


# What is said of a tenth of a group, of gradients by the gate in [batches,
# channels] and of what goes in [groups, channels]: to [groups].
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'first order': lambda gate, gone: gone @ -gate.mean(0),
    'second order': lambda gate, gone: gone @ gate.square().mean(0),
    # Together: the square of the sum, not the sum of squares.
    'joint second order': lambda gate, gone: (gate @ gone.T).square().mean(0),
}


def study(model: nn.Module, images: Images) -> dict[str, Any]:
    """Everything that is compared, for one network."""
    masked = copy.deepcopy(model).eval()
    pruner = attach(masked, EXAMPLE, scope=SCOPE)
    full = torch.ones_like(pruner.mask)
    single = ~torch.eye(len(full), dtype=torch.bool)
    truth = rise(masked, pruner, images, list(single))
    gate = gradients(masked, pruner, images)
    known = scores(model, gate)
    return {
        'loss': loss_of(masked, images),
        'channels': len(full),
        'median rise': float(truth.median()),
        'single channels': {
            name: correlations(values, truth, pruner.group)
            for name, values in known.items()
        },
        'margins': margins(masked, pruner, images, known['l2']),
    }


def main() -> None:
    """Runs the study and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', type=Path)
    parser.add_argument('weights', type=Path)
    parser.add_argument('--json', type=Path, required=True)
    parser.add_argument('--images', type=int, default=2048)
    args = parser.parse_args()
    pixels, labels = part_of(load_split(args.data, 'train'), args.images)
    model = trained(args.weights, 'cpu')
    result = study(model, (prepare(pixels), labels))
    replace_text(args.json, json.dumps(result, indent=1) + '\n')
    print(json.dumps(result, indent=1))


if __name__ == '__main__':
    main()
