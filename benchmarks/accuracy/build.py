# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The network of a row before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmlapp.core import Pruner, attach, narrow
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.bypass.beside import add_bypass
from mmlapp.engine.training.step_cost import TeacherCost, step_cost

from .cost import flops
from .lessons import FORWARD
from .network import STREAM, classifier, initialise, load
from .rows import Row

EXAMPLE = torch.zeros(1, 3, 32, 32)
SCOPE = 'backbone'


@dataclass(frozen=True)
class Built:
    """A network that is ready to be trained.

    Args:
        model (nn.Module): The network.
        pruner (Pruner, optional): Of a network that is pruned in training.
        dense (int): FLOPs of the dense network.
        wide (float): Cost of a step before narrowing, over a dense step.
        epochs (int): How long it trains.
    """

    model: nn.Module
    pruner: Pruner | None
    dense: int
    wide: float
    epochs: int


def build(
    row: Row,
    epochs: int,
    seed: int,
    widths: Mapping[str, int] | None = None,
    start: Path | None = None,
) -> Built:
    """Makes the network of a row.

    Args:
        row (Row): The row.
        epochs (int): Of dense training.
        seed (int): Of weights, and of random rates.
        widths (Mapping[str, int], optional): What each group keeps, of a row
            that takes the widths of another.
        start (Path, optional): Weights, of a row that goes on with another.
    """
    # The row's share of dense training, in whole epochs.
    epochs = max(round(row.epochs * epochs), 1)
    told = FORWARD if row.teacher else 0.0
    model = classifier(row.depth, seed, kind=row.kind)
    dense = flops(classifier(row.beside, seed) if row.beside else model)
    if start is not None:
        model = load(start)
        if row.method is None:
            return Built(model, None, dense, flops(model) / dense, epochs)
    if row.prune == 'before':
        pruned_before(model, row, seed, widths)
        share = flops(model) / dense
        if row.equal_cost:
            # Every step costs the share, and what a teacher says: E / (s + t)
            # epochs cost what E dense ones do.
            epochs = int(epochs / (share + told))
        return Built(model, None, dense, share, epochs)
    if row.method is None:
        return Built(model, None, dense, 1.0, epochs)
    pruner = attach(
        model, EXAMPLE, scope=SCOPE, method=row.method, **row.settings
    )
    # Of the masked network, which is as wide as the dense one, and of what it
    # is to become.
    step = step_cost(model, pruner, {'flops': row.target})
    if row.equal_cost:
        # In epochs; both are shares of the run, and grow with it. A teacher
        # is asked from the first step on.
        end = (row.begin + row.phase) * epochs
        step = step.with_teacher(TeacherCost(told, late=False), 0)
        epochs = step.stretched(end, epochs, 1.0)
    return Built(model, pruner, dense, step.wide, epochs)


def pruned_before(
    model: nn.Module,
    row: Row,
    seed: int,
    widths: Mapping[str, int] | None = None,
) -> None:
    """Narrows a network before its training, which is then from scratch."""
    settings = dict(row.settings)
    # What does the work of single filters is part of the network; others are
    # merged in the end, and stand beside all convolutions.
    filled = settings.get('unit') == 'filters'
    bypass = None if filled else settings.pop('bypass', None)
    if row.method is not None or row.widths_of:
        pruner = attach(
            model, EXAMPLE, scope=SCOPE, method=control(row, seed), **settings
        )
        if widths is None:
            pruner.begin({'flops': row.target}, steps=1)
            pruner.step()
        else:
            pruner.set_mask(first_channels(pruner, widths))
        narrow(model, pruner.plan())
        # New weights: those of a wide layer are too small for a narrow one.
        torch.manual_seed(seed)
        initialise(model)
    if bypass:
        add_branches(model, bypass)


def control(row: Row, seed: int) -> str | dict[str, Any]:
    """The method of a control; random rates are others with every seed."""
    if row.widths_of:
        return 'uniform'  # which decides nothing: the widths are given
    assert row.method is not None
    if isinstance(row.method, str):
        return row.method
    return {**row.method, 'seed': seed}


def first_channels(pruner: Pruner, widths: Mapping[str, int]) -> torch.Tensor:
    """A mask of the first channels of every group; which are alike.

    Args:
        pruner (Pruner): Of a network with weights at random.
        widths (Mapping[str, int]): How many, by group.
    """
    return torch.cat(
        [torch.arange(g.size) < widths[g.name] for g in pruner.groups]
    )


def widths_of(pruner: Pruner) -> dict[str, int]:
    """What each group keeps."""
    # Group of every living channel, counted: [channels] -> [groups].
    kept = torch.bincount(
        pruner.group[pruner.mask], minlength=len(pruner.groups)
    )
    return {
        g.name: k for g, k in zip(pruner.groups, kept.tolist(), strict=True)
    }


def add_branches(model: nn.Module, kind: str) -> None:
    """Puts branches that are merged beside every convolution of the blocks."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and name != STREAM:
            add_bypass(module, BRANCHES.build(kind, module))
