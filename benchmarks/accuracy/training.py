# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Training of all rows: one recipe, one loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from mmlapp.core import ChannelPlan, Phase, Pruner, narrow

from .build import Built, widths_of
from .cost import flops
from .data import Images
from .lessons import LESSONS
from .one_shot import prune_once
from .rows import Row
from .steps import Captured, Eager, Step


@dataclass(frozen=True)
class Recipe:
    """How every row of a table is trained.

    Args:
        epochs (int): Of dense training.
        batch (int): Images of a step.
        rate (float): Highest learning rate, after a tenth of the run.
        decay (float): Weight decay.
        amp (bool): Whether the forward runs in bfloat16.
        subset (int): Images of training; 0: all.
        tenth (bool): Whether every tenth image is trained on, expanded, in
            place of all.
    """

    epochs: int
    batch: int = 128
    rate: float = 0.4
    decay: float = 5e-4
    amp: bool = False
    subset: int = 0
    tenth: bool = False

    def optimizer(self, model: nn.Module) -> SGD:
        """SGD with momentum; a captured step reads its rate on the device."""
        device = next(model.parameters()).device
        rate = torch.tensor(self.rate, device=device)
        on_cpu = device.type == 'cpu'
        return SGD(
            model.parameters(),
            lr=self.rate if on_cpu else rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=self.decay,
            fused=not on_cpu,
        )

    def schedule(self, optimizer: SGD, steps: int) -> OneCycleLR:
        """Learning rates of a run, up and down along cosines."""
        return OneCycleLR(
            optimizer,
            self.rate,
            total_steps=steps,
            pct_start=0.1,
            cycle_momentum=False,
        )


class Training:
    """A run of one row, from its first step to its last.

    Args:
        row (Row): The row.
        built (Built): Its network, on its device.
        recipe (Recipe): Of the table.
        images (Images): To train on.
        seed (int): Of the order of images.
        teacher (nn.Module, optional): Trained, frozen.

    Attributes:
        cost (float): Cost of all steps so far, in steps of the dense network.
        widths (dict[str, int]): What the pruned groups keep.
        plan (ChannelPlan, optional): How the network was narrowed, if it was
            narrowed in training.
    """

    def __init__(
        self,
        row: Row,
        built: Built,
        recipe: Recipe,
        images: Images,
        seed: int,
        teacher: nn.Module | None = None,
    ) -> None:
        self.row, self.built, self.seed = row, built, seed
        self.recipe = replace(recipe, rate=recipe.rate * row.rate)
        self.images = images
        self.lesson = LESSONS[row.lesson](images, teacher)
        self.model, self.pruner = built.model, built.pruner
        self.optimizer = self.recipe.optimizer(self.model)
        self.steps = built.epochs * images.steps
        self.schedule = self.recipe.schedule(self.optimizer, self.steps)
        # Shares of the run in steps; a phase has one at least.
        self.begin = int(row.begin * self.steps)
        self.phase = max(int(row.phase * self.steps), 1)
        self.cost, self.share = 0.0, built.wide
        self.widths: dict[str, int] = {}
        self.plan: ChannelPlan | None = None
        self.inner = self.eager()

    def run(self) -> nn.Module:
        """Trains; returns the network that is to be deployed."""
        step, done = self.step(), 0
        for epoch in range(self.built.epochs):
            for pixels, truth in self.lesson.batches(self.seed, epoch):
                if self.pruner and done == self.begin:
                    self.begin_phase(self.pruner)
                step(pixels, truth)
                self.schedule.step()
                self.cost += self.share + self.lesson.cost
                done += 1
                # Another network, and so another step: a captured one has old
                # shapes.
                if self.shrinks(done):
                    step = self.step()
        return self.inner.average

    def begin_phase(self, pruner: Pruner) -> None:
        """Starts pruning, by a score that has seen what it asks for."""
        score = pruner.scorer.score
        if score.batches:
            pruner.prepare(
                self.model, self.calibration(score.batches, score.outputs)
            )
        end = self.row.end and {
            'type': self.row.end,
            'epoch': self.images.steps,
        }
        pruner.begin({'flops': self.row.target}, self.phase, end)

    def calibration(
        self, count: int, outputs: bool
    ) -> Iterator[Callable[[], Any]]:
        """Yields what runs the network on a batch of training each.

        Args:
            count (int): How many.
            outputs (bool): Whether logits are returned, and no loss.
        """

        def run(pixels: Tensor, truth: Tensor) -> Tensor:
            logits: Tensor = self.model(pixels)
            return logits if outputs else cross_entropy(logits, truth)

        # Of an epoch that comes after all others.
        batches = self.images.epoch(self.seed, self.built.epochs)
        for batch in islice(batches, count):
            yield partial(run, *batch)

    def shrinks(self, done: int) -> bool:
        """Makes the network small when that is due, and tells of it."""
        if self.pruner and self.pruner.phase == Phase.FINISHED:
            self.widths = widths_of(self.pruner)
            self.plan = self.pruner.plan()
            narrow(self.model, self.plan, self.optimizer)
            self.pruner = None
        elif self.row.prune == 'once' and done == self.begin + self.phase:
            self.model = prune_once(
                self.model, self.row.target, **self.row.settings
            )
            self.replace_optimizer()
        else:
            return False
        self.share = flops(self.model) / self.built.dense
        self.inner = self.eager()
        return True

    def replace_optimizer(self) -> None:
        """A new one for new parameters, at the same point of the schedule."""
        known = self.optimizer.param_groups[0]
        self.optimizer = self.recipe.optimizer(self.model)
        group = self.optimizer.param_groups[0]
        group.update({k: v for k, v in known.items() if k != 'params'})
        # The schedule goes on where it was, with the rate that it had set.
        self.schedule.optimizer = self.optimizer

    def eager(self) -> Eager:
        """A step of the network as it is."""
        # An average of networks that change their shape is none: it begins
        # when the network is small.
        average = 0.0 if self.pruner else self.row.average
        return Eager(
            self.model,
            self.optimizer,
            self.lesson,
            self.recipe.amp,
            self.pruner,
            average,
        )

    def step(self) -> Step:
        """The step as the device runs it best."""
        device: Any = next(self.model.parameters()).device
        # A phase decides on the host, which a graph cannot.
        fixed = self.lesson.fixed and self.pruner is None
        if device.type == 'cuda' and fixed:
            return Captured(self.inner)
        return self.inner
