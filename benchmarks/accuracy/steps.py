# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One step of training, run or, on an accelerator, replayed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmlapp.core import Phase, Pruner

from .lessons import Labels

# Steps before a graph is captured: libraries choose kernels in the first.
WARM_UP = 3

Step = Callable[[Tensor, Tensor], Tensor]


class Eager:
    """A step that is run as it is written.

    Args:
        model (nn.Module): The network.
        optimizer (Optimizer): Of its parameters.
        lesson (Labels): What the network learns from.
        amp (bool): Whether the forward runs in bfloat16.
        pruner (Pruner, optional): Of a network that is being pruned.
        average (float): Share by which an average follows the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        lesson: Labels,
        amp: bool,
        pruner: Pruner | None = None,
        average: float = 0.0,
    ) -> None:
        self.model, self.optimizer, self.pruner = model, optimizer, pruner
        self.amp, self.share = amp, average
        self.average = copy.deepcopy(model) if average else model
        self.lesson = lesson

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        """Trains on a batch; returns the task loss, detached."""
        # Graphs keep no cache of casts, and each weight is cast once.
        with torch.autocast(
            images.device.type,
            torch.bfloat16,
            enabled=self.amp,
            cache_enabled=False,
        ):
            logits = self.model(images)
            told = self.lesson.ask(images, truth)
        task = self.lesson.loss(logits, told, truth)
        loss = task if self.pruner is None else task + self.pruner.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.lesson.step()
        if self.pruner and self.pruner.phase == Phase.PRUNING:
            self.pruner.step()
        if self.share:
            follow(self.average, self.model, self.share)
        return task.detach()


class Captured:
    """A step that a CUDA graph repeats, for a network that is fixed.

    Of a network this small most of the time is spent on launching kernels.

    Args:
        step (Step): What is captured; it may use no value of the host.
    """

    def __init__(self, step: Step) -> None:
        self.step, self.done = step, 0
        self.stream = torch.cuda.Stream()
        self.graph = torch.cuda.CUDAGraph()
        self.images: Any = None
        self.labels: Any = None
        self.loss: Any = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Trains on a batch; returns the task loss, which the next changes."""
        # A graph reads and writes where it was captured: batches are copied
        # there.
        if self.images is None:
            self.images, self.labels = images.clone(), labels.clone()
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.done += 1
        if self.done <= WARM_UP:
            # Beside the default stream, on which nothing can be captured; each
            # waits for the other.
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self.step(self.images, self.labels)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        if self.done == WARM_UP + 1:
            with torch.cuda.graph(self.graph):
                self.loss = self.step(self.images, self.labels)
        self.graph.replay()
        return self.loss


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, share: float) -> None:
    """Moves an average of all tensors towards those of a model."""
    for old, new in zip(
        average.state_dict().values(), model.state_dict().values(), strict=True
    ):
        # Counters, such as the batches that a norm has seen, have no average.
        if old.is_floating_point():
            old.lerp_(new, share)
        else:
            old.copy_(new)
