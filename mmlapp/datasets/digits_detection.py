# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Detection of handwritten digits scattered on a canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset

from mmlapp.core import PruningError
from mmlapp.registry import DATASETS

from .scans import CLASSES, SPLITS, load_scans
from .scatter import Scatter, Scene


@DATASETS.register_module()
class DigitsDetection(BaseDataset):
    """Scans of handwritten digits scattered over synthetic images.

    The scans are those of :class:`Digits`, training scans on training images
    and test scans on test images. An image depends on the arguments and on
    its index alone, is drawn when it is first asked for and kept. It lies in
    memory: the pipeline starts with ``LoadImageFromNDArray``. Give
    ``PackDetInputs`` the meta key ``instances`` for ``CocoMetric`` without an
    annotation file.

    Args:
        split (str): ``'train'`` or ``'test'``. Defaults to ``'train'``.
        num_images (int): Number of images. Defaults to 400.
        img_size (int): Side of the canvas in pixels. Defaults to 128.
        num_digits (Sequence[int]): Fewest and most digits on an image. A
            digit that finds no place is left out, but never the first.
            Defaults to (2, 6).
        digit_size (Sequence[int]): Smallest and largest side in pixels to
            which a scan is enlarged; the ink may be narrower.
            Defaults to (20, 48).
        max_overlap (float): Largest part of a box that another may cover.
            Defaults to 0.1.
        noise (float): Standard deviation of the noise, in levels of 256.
            Defaults to 8.
        seed (int): Seed of the images. Defaults to 0.
        pipeline (Sequence[dict | Callable]): Transforms of the image.
            Defaults to ().
        **kwargs: Further arguments of :class:`mmengine.dataset.BaseDataset`.

    Raises:
        PruningError: If an argument is out of its domain.
        ImportError: If scikit-learn is not installed.

    Examples:
        >>> from mmlapp.datasets import DigitsDetection
        >>> dataset = DigitsDetection(split='test', num_images=10)
        >>> sample = dataset[0]
        >>> sample['img'].shape, sorted(sample['instances'][0])
        ((128, 128, 3), ['bbox', 'bbox_label', 'ignore_flag'])
    """

    METAINFO: ClassVar[dict[str, Any]] = dict(classes=CLASSES)

    def __init__(
        self,
        split: str = 'train',
        num_images: int = 400,
        img_size: int = 128,
        num_digits: Sequence[int] = (2, 6),
        digit_size: Sequence[int] = (20, 48),
        max_overlap: float = 0.1,
        noise: float = 8.0,
        seed: int = 0,
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        if num_images < 1:
            raise PruningError(f'num_images={num_images}: expected at least 1')
        if seed < 0:
            raise PruningError(f'seed={seed}: expected 0 or more')
        self.num_images = num_images
        self.seed = seed
        self.split = split
        self.scatter = Scatter(
            *load_scans(split),
            img_size=img_size,
            num_digits=tuple(num_digits),
            digit_size=tuple(digit_size),
            max_overlap=max_overlap,
            noise=noise,
        )
        self._scenes: dict[int, Scene] = {}
        super().__init__(pipeline=list(pipeline), **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Identity and size of the images, which are not drawn yet.

        Returns:
            list[dict]: ``img_id``, ``height`` and ``width`` of each image.
        """
        side = self.scatter.img_size
        return [
            dict(img_id=index, height=side, width=side)
            for index in range(self.num_images)
        ]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Image and boxes in the form of MMDetection.

        Args:
            idx (int): Index of the image.

        Returns:
            dict: ``img`` of shape ``[H, W, 3]`` and ``instances``, besides
            identity and size.
        """
        info: dict[str, Any] = super().get_data_info(idx)
        scene = self._scene(info['img_id'])
        info['img'] = scene.img.copy()
        info['instances'] = [
            dict(bbox=list(box), bbox_label=label, ignore_flag=0)
            for box, label in zip(scene.boxes, scene.labels, strict=True)
        ]
        return info

    def _scene(self, img_id: int) -> Scene:
        if img_id not in self._scenes:
            key = (self.seed, SPLITS.index(self.split), img_id)
            self._scenes[img_id] = self.scatter.draw(key)
        return self._scenes[img_id]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels on one image, for samplers that balance classes.

        Args:
            idx (int): Index of the image.

        Returns:
            list[int]: The label of each box.
        """
        instances = self.get_data_info(idx)['instances']
        return [instance['bbox_label'] for instance in instances]
