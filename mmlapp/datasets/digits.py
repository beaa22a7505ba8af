# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Classification of handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import mmcv
import numpy as np
from mmengine.dataset import BaseDataset
from numpy.typing import NDArray

from mmlapp.core import PruningError
from mmlapp.registry import DATASETS

from .scans import CLASSES, load_scans

SCAN_SIZE = 8


@DATASETS.register_module()
class Digits(BaseDataset):
    """1,797 scans of handwritten digits that come with scikit-learn.

    Real images without a download: the test part of `Optical Recognition of
    Handwritten Digits <https://archive.ics.uci.edu/dataset/80>`_, 8x8 pixels.
    The images lie in memory, so the pipeline starts without loading.

    Args:
        split (str): ``'train'`` (1,438 scans) or ``'test'`` (359 scans); the
            cut is fixed and stratified. Defaults to ``'train'``.
        img_size (int): Side in pixels to which the scans are enlarged, not
            less than 8. Defaults to 32.
        pipeline (Sequence[dict | Callable]): Transforms of the image.
            Defaults to ().
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        PruningError: If an argument is out of its domain.
        ImportError: If scikit-learn is not installed.

    Examples:
        >>> from mmlapp.datasets import Digits
        >>> sample = Digits(split='test', img_size=16)[0]
        >>> sample['img'].shape, sample['gt_label']
        ((16, 16, 3), 0)
    """

    METAINFO: ClassVar[dict[str, Any]] = dict(classes=CLASSES)

    def __init__(
        self,
        split: str = 'train',
        img_size: int = 32,
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        if img_size < SCAN_SIZE:
            raise PruningError(
                f'img_size={img_size}: expected at least {SCAN_SIZE}, the '
                'size of the scans'
            )
        self.split = split
        self.img_size = img_size
        super().__init__(pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Images and labels of the split.

        Returns:
            list[dict]: ``img`` of shape ``[img_size, img_size, 3]`` and
            ``gt_label``, one dict per scan.
        """
        scans, labels = load_scans(self.split)
        return [
            dict(img=self._enlarge(scan), gt_label=int(label))
            for scan, label in zip(scans, labels, strict=True)
        ]

    def _enlarge(self, scan: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (self.img_size, self.img_size)
        grey = mmcv.imresize(scan, size, interpolation='bicubic')
        return np.repeat(grey[..., None], 3, axis=2)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Label of one image, for samplers that balance classes.

        Args:
            idx (int): Index of the image.

        Returns:
            list[int]: Its only label.
        """
        return [self.get_data_info(idx)['gt_label']]
