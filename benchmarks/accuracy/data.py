# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 in the memory of a device, augmented the same everywhere."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
SHIFT = 4  # pixels, to each side
# How many images are augmented at once on an accelerator: some gigabytes.
AT_ONCE = 10_000


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
    # Renamed when it is whole: several processes may read the folder.
    temporary = cache.with_suffix(f'.{os.getpid()}.tmp')
    torch.save(pair, temporary)
    os.replace(temporary, cache)
    return pair


def part_of(pair: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The same ``count`` images for every row and seed; 0: all."""
    if not count:
        return pair
    # Always this seed: seeds of a table are seeds of its training.
    generator = torch.Generator().manual_seed(1)
    keep = torch.randperm(len(pair[0]), generator=generator)[:count]
    return pair[0][keep], pair[1][keep]


def prepare(images: Tensor) -> Tensor:
    """Normalises and puts channels last."""
    shape = (1, 3, 1, 1)
    mean = torch.tensor(MEAN, device=images.device).view(shape)
    std = torch.tensor(STD, device=images.device).view(shape)
    images = (images.float() - mean) / std
    return images.to(memory_format=torch.channels_last)


def moved(images: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """Shifts images and mirrors some of them.

    Args:
        images (Tensor): ``[N, 3, H, W]``.
        shift (Tensor): Rows and columns from the corner of the padded image,
            ``[2, N]``.
        mirror (Tensor): Bool, ``[N]``.
    """
    side = torch.arange(images.shape[-1], device=images.device)
    padded = functional.pad(images, (SHIFT,) * 4)
    # [N] + [H] -> [N, H], likewise of columns
    rows = shift[0][:, None] + side
    columns = shift[1][:, None] + side
    columns = torch.where(mirror[:, None], columns.flip(1), columns)
    index = torch.arange(len(images), device=images.device)[:, None, None]
    # Channels last: an image's rows and columns pick whole pixels.
    found = padded.permute(0, 2, 3, 1)[
        index, rows[:, :, None], columns[:, None, :]
    ]
    return found.permute(0, 3, 1, 2)


class Images:
    """The images of training, in batches that a seed decides.

    What is drawn is drawn on the CPU, so that a seed means the same on every
    device.

    Args:
        pixels (Tensor): uint8, ``[N, 3, 32, 32]``.
        labels (Tensor): ``[N]``.
        batch (int): Images of a step.
        device (torch.device): Where they are.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        batch: int,
        device: torch.device,
    ) -> None:
        self.pixels, self.labels = pixels.to(device), labels.to(device)
        self.batch = batch
        self.steps = len(pixels) // batch

    def numbered(self) -> Images:
        """The same images with their numbers in place of labels."""
        found = copy.copy(self)
        found.labels = torch.arange(
            len(self.labels), device=self.labels.device
        )
        return found

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images, normalised and augmented, and labels."""
        # Other numbers for every epoch of every seed, below 1000 epochs.
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        count, device = self.steps * self.batch, self.pixels.device
        order = torch.randperm(len(self.pixels), generator=generator)
        shift = torch.randint(
            # 0 to 8 from the corner of an image that is padded by 4: 4 is the
            # middle.
            0,
            2 * SHIFT + 1,
            (2, count),
            generator=generator,
        )
        mirror = torch.rand(count, generator=generator) < 0.5
        order, shift, mirror = (
            t.to(device) for t in (order[:count], shift, mirror)
        )
        # Large pieces keep an accelerator busy, small ones a cache warm.
        steps = 1 if device.type == 'cpu' else AT_ONCE // self.batch
        for part in range(0, count, steps * self.batch):
            here = slice(part, part + steps * self.batch)
            index = order[here]
            images = moved(
                prepare(self.pixels[index]), shift[:, here], mirror[here]
            )
            labels = self.labels[index]
            yield from zip(
                images.split(self.batch), labels.split(self.batch), strict=True
            )
