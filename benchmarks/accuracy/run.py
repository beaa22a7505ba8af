# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One row with one seed, from its build to its accuracy as deployed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlapp.core import merge_bypasses
from mmlapp.core.distillation import freeze

from .build import build
from .cost import flops
from .data import Images, load_split, part_of
from .expand import tenth_expanded
from .network import evaluate, load, save
from .rows import TABLES
from .training import Recipe, Training

Result = dict[str, Any]


@cache
def images_of(
    root: Path, recipe: Recipe, device: str
) -> tuple[Images, tuple[Tensor, Tensor]]:
    """Images of training and test, read once in a process."""
    train = load_split(root, 'train')
    if recipe.tenth:
        train = tenth_expanded(train)
    train = part_of(train, recipe.subset)
    pixels, labels = load_split(root, 'test')
    place = torch.device(device)
    return (
        Images(*train, recipe.batch, place),
        (pixels.to(place), labels.to(place)),
    )


def trained(path: Path, device: str) -> nn.Module:
    """A network as it was trained, frozen."""
    place = torch.device(device)
    return freeze(load(path).to(place, memory_format=torch.channels_last))


def run(
    table: str,
    name: str,
    seed: int,
    recipe: Recipe,
    root: Path,
    device: str = 'cpu',
    widths: Mapping[str, int] | None = None,
    teacher: Path | None = None,
    start: tuple[Path, Result] | None = None,
    weights: Path | None = None,
) -> Result:
    """Trains a row and evaluates what is deployed.

    Args:
        table (str): Name of its table.
        name (str): Of the row.
        seed (int): Of weights and of the order of images.
        recipe (Recipe): How it is trained.
        root (Path): Folder of the images.
        device (str): Where it is trained.
        widths (Mapping[str, int], optional): What each group keeps, if
            another row decided that.
        teacher (Path, optional): Weights of a network to learn from.
        start (tuple, optional): Weights to go on with, and the result of the
            row that they are of, whose epochs and cost count.
        weights (Path, optional): Where its own go, if another needs them.
    """
    row = TABLES[table][name]
    images, test = images_of(root, recipe, device)
    # Images are read once for all rows, and do not count.
    started = time.perf_counter()
    begun = start and start[0]
    built = build(row, recipe.epochs, seed, widths, begun)
    built.model.to(torch.device(device), memory_format=torch.channels_last)
    master = teacher and trained(teacher, device)
    training = Training(row, built, recipe, images, seed, master)
    model = training.run()
    before = evaluate(model, *test)
    seconds = time.perf_counter() - started
    merge_bypasses(model.eval())
    after = evaluate(model, *test)
    # Merged in float32: images at the border of two classes may change.
    assert abs(after - before) < 0.1, (before, after)
    if weights:
        save(model, training.plan, weights)
    earlier = start[1] if start else {'epochs': 0, 'cost': 0}
    # Dense steps, over those of dense training.
    cost = training.cost / (recipe.epochs * images.steps)
    return {
        'row': name,
        'seed': seed,
        'accuracy': after,
        'flops': flops(model) / built.dense,
        'parameters': sum(p.numel() for p in model.parameters()),
        'epochs': built.epochs + earlier['epochs'],
        'cost': cost + earlier['cost'],
        'seconds': round(seconds, 1),
        'widths': training.widths,
    }
