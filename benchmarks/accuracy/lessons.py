# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a network learns from: labels, a teacher, or labels that it refines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmlapp.core import LabelRefinement
from mmlapp.core.distillation import LogitDistillation

from .data import Images

CLASSES = 10
# A teacher runs forward: a third of a step, of which two are backward.
FORWARD = 1 / 3


class Labels:
    """Labels alone.

    Args:
        images (Images): To train on.
        teacher (nn.Module, optional): Frozen; not asked.

    Attributes:
        cost (float): Of the teacher in the last step, in dense steps.
        fixed (bool): Whether all steps run the same operators, so that an
            accelerator may replay them.
    """

    fixed = True

    def __init__(
        self, images: Images, teacher: nn.Module | None = None
    ) -> None:
        self.images, self.teacher = images, teacher
        self.cost = 0.0

    def batches(
        self, seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images and what :meth:`loss` compares with."""
        return self.images.epoch(seed, epoch)

    def ask(self, images: Tensor, truth: Tensor) -> Tensor | None:
        """What the teacher says of a batch, as logits."""
        del images, truth
        return None

    def loss(
        self, logits: Tensor, told: Tensor | None, truth: Tensor
    ) -> Tensor:
        """The loss of a batch."""
        del told
        return functional.cross_entropy(logits.float(), truth)

    def step(self) -> None:
        """What else moves after the optimizer's step."""


class Taught(Labels):
    """Logits of a teacher beside the labels.

    Args:
        images (Images): To train on.
        teacher (nn.Module): Frozen.
        settings (float): Of :class:`LogitDistillation`.
    """

    def __init__(
        self, images: Images, teacher: nn.Module, **settings: float
    ) -> None:
        super().__init__(images, teacher)
        self.cost, self.distill = FORWARD, LogitDistillation(**settings)

    def ask(self, images: Tensor, truth: Tensor) -> Tensor | None:
        """What the teacher says of every batch."""
        del truth
        assert self.teacher, 'nobody to ask'
        told: Tensor = self.teacher(images)
        return told

    def loss(
        self, logits: Tensor, told: Tensor | None, truth: Tensor
    ) -> Tensor:
        """Distance from both."""
        assert told is not None, 'not asked'
        return self.distill(logits, told, truth)


class Mixed(Taught):
    """Mixup distillation: pairs of images are shown to both as one."""

    def batches(
        self, seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields mixed images and probabilities of classes."""
        # As of the images: on the CPU, so that every device mixes alike.
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        for images, labels in super().batches(seed, epoch):
            yield mixed(images, labels, generator)


def mixed(
    images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Adds to every image another one, all with one weight, of Beta(1, 1).

    Args:
        images (Tensor): ``[N, 3, H, W]``.
        labels (Tensor): ``[N]``.
        generator (torch.Generator): Of the weight and the pairs.
    """
    share = torch.rand((), generator=generator).item()
    other = torch.randperm(len(images), generator=generator)
    other = other.to(images.device)
    truth = functional.one_hot(labels, CLASSES).float()
    # x + s (x' - x), of images and of their classes.
    return images.lerp(images[other], share), truth.lerp(truth[other], share)


class Refined(Labels):
    """A label for each image that begins as the teacher's and is learned.

    Batches have numbers of images in place of labels.
    """

    fixed = False

    def __init__(self, images: Images, teacher: nn.Module) -> None:
        super().__init__(images, teacher)
        self.truth = images.labels
        self.refine = LabelRefinement(len(self.truth), CLASSES)

    def batches(
        self, seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images and their numbers."""
        return self.images.numbered().epoch(seed, epoch)

    def ask(self, images: Tensor, truth: Tensor) -> Tensor | None:
        """What the teacher says, where an image is seen the first time."""
        known = self.refine.knows(truth)
        # A batch of images that were all seen has its labels already.
        self.cost = 0.0 if known else FORWARD
        assert self.teacher, 'nobody to ask'
        return None if known else self.teacher(images)

    def loss(
        self, logits: Tensor, told: Tensor | None, truth: Tensor
    ) -> Tensor:
        """Distance from the learned labels and the given ones."""
        if told is not None:
            self.refine.initialise(truth, told)
        found: Tensor = self.refine(logits, truth, self.truth[truth])
        return found

    def step(self) -> None:
        """Moves the labels of the batch."""
        self.refine.step()


LESSONS: dict[str, Callable[..., Labels]] = {
    'labels': Labels,
    'logits': Taught,
    # As the recipes of the tenth have it, after CURL.
    'mixup': partial(Mixed, alpha=0.7, temperature=2.0),
    'refined': Refined,
}
