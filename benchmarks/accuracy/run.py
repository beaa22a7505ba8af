# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One row with one seed, from its build to its accuracy as deployed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlapp.core import merge_bypasses
from mmlapp.core.distillation import freeze
from mmlapp.core.files import replace_file

from .build import build
from .cost import flops
from .data import Images, load_split, part_of
from .network import DEPTH, classifier, evaluate
from .rows import TABLES
from .training import Recipe, Training

Result = dict[str, Any]


@cache
def images_of(
    root: Path, recipe: Recipe, device: str
) -> tuple[Images, tuple[Tensor, Tensor]]:
    """Images of training and test, read once in a process."""
    train = part_of(load_split(root, 'train'), recipe.subset)
    pixels, labels = load_split(root, 'test')
    place = torch.device(device)
    return (
        Images(*train, recipe.batch, place),
        (pixels.to(place), labels.to(place)),
    )


def trained(path: Path, device: str) -> nn.Module:
    """A dense network as it was trained, frozen."""
    model = classifier(DEPTH, 0)
    state = torch.load(path, 'cpu', weights_only=True)
    model.load_state_dict(state)
    place = torch.device(device)
    return freeze(model.to(place, memory_format=torch.channels_last))


def run(
    table: str,
    name: str,
    seed: int,
    recipe: Recipe,
    root: Path,
    device: str = 'cpu',
    widths: Mapping[str, int] | None = None,
    teacher: Path | None = None,
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
        teacher (Path, optional): Weights of a dense network to learn from.
        weights (Path, optional): Where its own go, if another needs them.
    """
    row = TABLES[table][name]
    images, test = images_of(root, recipe, device)
    started = time.perf_counter()
    built = build(row, recipe.epochs, seed, widths)
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
        replace_file(weights, partial(torch.save, model.state_dict()))
    return {
        'row': name,
        'seed': seed,
        'accuracy': after,
        'flops': flops(model) / built.dense,
        'parameters': sum(p.numel() for p in model.parameters()),
        'epochs': built.epochs,
        'cost': training.cost / (recipe.epochs * images.steps),
        'seconds': round(seconds, 1),
        'widths': training.widths,
    }
