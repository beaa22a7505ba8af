# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images whose patches change places."""

from __future__ import annotations

from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from numpy.typing import NDArray

from mmlapp.core import PruningError
from mmlapp.core.numbers import check_number
from mmlapp.registry import TRANSFORMS

# Ground truth that says where something is.
LOCATED = 'gt_bboxes', 'gt_masks', 'gt_seg_map', 'gt_keypoints'


@TRANSFORMS.register_module()
class PatchShuffle(BaseTransform):
    """Cuts an image into a grid of patches and shuffles them.

    Expands small data sets of classification (CURL, arXiv 1911.08114). An
    image whose sides are no multiples of ``grid`` is resized to the next
    smaller ones and back.

    **Required and modified keys:** ``img``.

    Args:
        grid (int): Patches along each side, at least 2. Defaults to 2.
        prob (float): How often it is done, in [0, 1]. Defaults to 1.

    Raises:
        PruningError: If an argument lies outside its range.

    Examples:
        >>> image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
        >>> shuffled = PatchShuffle()({'img': image})['img']
        >>> shuffled.shape, int(shuffled.sum())
        ((4, 4, 1), 120)
    """

    def __init__(self, grid: int = 2, prob: float = 1.0) -> None:
        self.grid = check_number('grid', grid, least=2, whole=True)
        self.prob = check_number('prob', prob, least=0, most=1)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Shuffles the patches of one image.

        Args:
            results (dict): With ``img`` of shape ``[H, W, C]`` or ``[H, W]``.

        Returns:
            dict: The same with another ``img`` of the same shape.

        Raises:
            PruningError: If the image is smaller than the grid, or has boxes
                or masks, which would no longer fit.
        """
        located = next((key for key in LOCATED if key in results), None)
        if located is not None:
            raise PruningError(
                f'PatchShuffle moves what {located} describes: it is for '
                'classification. Leave it out of the pipeline'
            )
        if np.random.rand() < self.prob:
            order = np.random.permutation(self.grid**2)
            results['img'] = self._shuffle(results['img'], order)
        return results

    def _shuffle(
        self, image: NDArray[Any], order: NDArray[np.int64]
    ) -> NDArray[Any]:
        height, width = image.shape[:2]
        if min(height, width) < self.grid:
            raise PruningError(
                f'grid={self.grid}: an image of {height}x{width} pixels has '
                'fewer rows or columns. Take a smaller grid'
            )
        rows, columns = height // self.grid, width // self.grid
        fitting = _resized(image, rows * self.grid, columns * self.grid)
        # [g h, g w, C] -> [g, h, g, w, C] -> [g g, h, w, C]
        rest = fitting.shape[2:]
        cut = fitting.reshape(self.grid, rows, self.grid, columns, *rest)
        patches = cut.swapaxes(1, 2).reshape(-1, rows, columns, *rest)
        mixed = patches[order].reshape(
            self.grid, self.grid, rows, columns, *rest
        )
        shuffled = mixed.swapaxes(1, 2).reshape(fitting.shape)
        return _resized(shuffled, height, width)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f'{name}(grid={self.grid}, prob={self.prob})'


def _resized(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    if image.shape[:2] == (height, width):
        return image
    resized = mmcv.imresize(image, (width, height))
    # OpenCV drops a single channel.
    return resized.reshape(height, width, *image.shape[2:])
