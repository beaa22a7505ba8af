# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Drawing of scenes: digits of random size at random places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mmcv
import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from mmlapp.core import PruningError

Box = tuple[float, float, float, float]

PAPER = (0, 80)  # levels of the background, per channel
INK = (160, 256)
FAINTEST = 0.2  # opacity below which ink is left out
ATTEMPTS = 50  # places to try for one digit


@dataclass(frozen=True)
class Scene:
    """One image with its boxes.

    Args:
        img (np.ndarray): Shape is ``[H, W, 3]``, 8 bits.
        boxes (list[Box]): Left, top, right and bottom of each digit; right
            and bottom are the first pixels outside.
        labels (list[int]): Label of each digit.
    """

    img: NDArray[np.uint8]
    boxes: list[Box]
    labels: list[int]


@dataclass(frozen=True)
class Scatter:
    """Draws scenes from scans; see :class:`DigitsDetection` for the rest.

    Args:
        scans (np.ndarray): Shape is ``[N, 8, 8]``, 8 bits.
        labels (np.ndarray): Shape is ``[N]``.
        img_size (int): Side of the canvas.
        num_digits (tuple[int, int]): Fewest and most digits.
        digit_size (tuple[int, int]): Smallest and largest side of a scan.
        max_overlap (float): Largest part of a box that another may cover.
        noise (float): Standard deviation of the noise.

    Raises:
        PruningError: If an argument is out of its domain.
    """

    scans: NDArray[np.uint8]
    labels: NDArray[np.int64]
    img_size: int
    num_digits: tuple[int, ...]
    digit_size: tuple[int, ...]
    max_overlap: float
    noise: float

    def __post_init__(self) -> None:
        check_range('num_digits', self.num_digits, 1, None)
        check_range('digit_size', self.digit_size, 8, self.img_size)
        if not 0 <= self.max_overlap <= 1:
            raise PruningError(
                f'max_overlap={self.max_overlap}: expected a part from 0 to 1'
            )
        if self.noise < 0:
            raise PruningError(f'noise={self.noise}: expected 0 or more')

    def draw(self, key: Sequence[int]) -> Scene:
        """Draws the scene of a key.

        Args:
            key (Sequence[int]): Numbers that seed the scene.

        Returns:
            Scene: The same for the same key and arguments.
        """
        # NumPy guarantees the stream of RandomState, not of Generator.
        rng = RandomState(list(key))
        canvas = np.empty((self.img_size, self.img_size, 3))
        canvas[:] = rng.randint(*PAPER, size=3)
        boxes: list[Box] = []
        labels: list[int] = []
        fewest, most = self.num_digits
        for _ in range(rng.randint(fewest, most + 1)):
            chosen = rng.randint(len(self.scans))
            box = self._add(canvas, rng, self.scans[chosen], boxes)
            if box is not None:
                boxes.append(box)
                labels.append(int(self.labels[chosen]))
        canvas += rng.normal(scale=self.noise, size=canvas.shape)
        img = canvas.round().clip(0, 255).astype(np.uint8)
        return Scene(img, boxes, labels)

    def _add(
        self,
        canvas: NDArray[np.float64],
        rng: RandomState,
        scan: NDArray[np.uint8],
        taken: list[Box],
    ) -> Box | None:
        smallest, largest = self.digit_size
        ink = opacity(scan, rng.randint(smallest, largest + 1))
        colour = rng.randint(*INK, size=3)
        for _ in range(ATTEMPTS):
            box = self._random_place(rng, ink.shape)
            if all(overlap(box, b) <= self.max_overlap for b in taken):
                blend(canvas, box, ink, colour)
                return box
        return None

    def _random_place(self, rng: RandomState, shape: tuple[int, ...]) -> Box:
        height, width = shape
        left = float(rng.randint(self.img_size - width + 1))
        top = float(rng.randint(self.img_size - height + 1))
        return left, top, left + width, top + height


def check_range(
    name: str, limits: Sequence[int], low: int, high: int | None
) -> None:
    """Refuses limits that are not two ordered numbers within bounds."""
    ordered = len(limits) == 2 and low <= limits[0] <= limits[1]
    if not ordered or (high is not None and limits[1] > high):
        upper = '' if high is None else f' and at most {high}'
        raise PruningError(
            f'{name}={tuple(limits)}: expected (smallest, largest), '
            f'at least {low}{upper}'
        )


def opacity(scan: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Enlarge a scan to a side and crop it to its ink.

    Args:
        scan (np.ndarray): Shape is ``[8, 8]``, 8 bits.
        size (int): Side in pixels before the crop.

    Returns:
        np.ndarray: Opacity from 0 to 1. Every border row and column has ink.
    """
    ink: NDArray[np.float64]
    ink = mmcv.imresize(scan, (size, size), interpolation='bicubic') / 255
    ink[ink < FAINTEST] = 0
    rows, cols = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]


def overlap(one: Box, other: Box) -> float:
    """Intersection of two boxes over the area of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return width * height / min(areas)


def blend(
    canvas: NDArray[np.float64],
    box: Box,
    ink: NDArray[np.float64],
    colour: NDArray[np.int64],
) -> None:
    """Paint ink of a colour into a box of the canvas, in place."""
    left, top, right, bottom = (int(x) for x in box)
    window = canvas[top:bottom, left:right]
    window += ink[..., None] * (colour - window)
