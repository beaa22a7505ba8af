# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A small data set several times, each time otherwise."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import DATASETS as MMENGINE_DATASETS

from mmlapp.core import PruningError
from mmlapp.core.numbers import check_number
from mmlapp.registry import DATASETS

Transform = Mapping[str, Any] | Callable[..., Any]


@DATASETS.register_module()
class ExpandedDataset:
    """Every image in several variants, which stay the same in all epochs.

    As the expanded data set of CURL (arXiv 1911.08114), which lies on disk
    there: image i in variant v is entry ``v * len(dataset) + i``, with an
    index (``sample_idx``) of its own, so that label refinement can learn a
    label for each. What is random in a variant is drawn once, from the seed
    and the index; augmentation in ``pipeline`` is drawn anew each time.

    Args:
        dataset (Mapping or BaseDataset): The images; its own pipeline runs
            first, such as ``LoadImageFromFile``.
        variants (Sequence[Sequence]): Transforms of every variant; none for
            the image as it is.
        pipeline (Sequence): Transforms after those of the variant. Defaults
            to none.
        seed (int): Of what is random in the variants. Defaults to 0.

    Attributes:
        numbers_images (bool): Whether every entry has a ``sample_idx`` of
            its own, which :class:`~mmlapp.engine.LabelRefiner` asks for.

    Raises:
        PruningError: If there are no variants.

    Examples:
        >>> from mmlapp.datasets import Digits
        >>> shuffled = [dict(type='mmlapp.PatchShuffle', grid=2)]
        >>> data = ExpandedDataset(Digits(split='test'), [[], shuffled])
        >>> len(data), data[359 + 4]['sample_idx']
        (718, 363)
    """

    numbers_images = True

    def __init__(
        self,
        dataset: Mapping[str, Any] | BaseDataset,
        variants: Sequence[Sequence[Transform]],
        pipeline: Sequence[Transform] = (),
        seed: int = 0,
    ) -> None:
        if isinstance(dataset, Mapping):
            dataset = MMENGINE_DATASETS.build(copy.deepcopy(dict(dataset)))
        self.dataset: Any = dataset
        self.variants = [_composed(each) for each in _checked(variants)]
        self.texts = [_text(each) for each in variants]
        self.pipeline = Compose(list(pipeline))
        self.seed = check_number('seed', seed, least=0, whole=True)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and the like, of the data set inside."""
        found: dict[str, Any] = self.dataset.metainfo
        return found

    def full_init(self) -> None:
        """Reads the data set inside, if it was to be read later."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.variants) * len(self.dataset)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """What the data set inside knows of the image of an entry.

        Args:
            idx (int): Index of the entry.

        Returns:
            dict: Likewise, with the ``sample_idx`` of the entry and, as
            ``variant``, seed and transforms in words.
        """
        variant, original = divmod(idx, len(self.dataset))
        return {
            **self.dataset.get_data_info(original),
            'sample_idx': idx,
            'variant': f'seed {self.seed}, {self.texts[variant]}',
        }

    def get_cat_ids(self, idx: int) -> list[int]:
        """Label of an entry, for samplers that balance classes.

        Args:
            idx (int): Index of the entry.
        """
        found: list[int] = self.dataset.get_cat_ids(idx % len(self.dataset))
        return found

    def __getitem__(self, idx: int) -> Any:
        """An image in one variant, after the whole pipeline.

        Args:
            idx (int): Index of the entry.
        """
        if not 0 <= idx < len(self):
            raise IndexError(f'{idx} of {len(self)} entries')
        variant, original = divmod(idx, len(self.dataset))
        results = self.dataset[original]
        with fixed_numbers([self.seed, idx]):
            results = self.variants[variant](results)
        results['sample_idx'] = idx
        return self.pipeline(results)


def _checked(variants: Any) -> Sequence[Sequence[Transform]]:
    lists = isinstance(variants, Sequence) and not isinstance(variants, str)
    if not lists or not variants:
        raise PruningError(
            f'variants={variants!r}: expected a list of lists of transforms, '
            'such as [[], [dict(type="mmlapp.PatchShuffle")]]'
        )
    for each in variants:
        if not isinstance(each, Sequence) or isinstance(each, str):
            raise PruningError(
                f'variants has {each!r}: expected a list of transforms for '
                'each variant'
            )
    return variants


def _composed(transforms: Sequence[Transform]) -> Compose:
    return Compose(list(transforms))


def _text(transforms: Sequence[Transform]) -> str:
    """The same for equal settings, in every process."""
    return json.dumps(
        list(transforms),
        sort_keys=True,
        default=lambda entry: type(entry).__name__,
    )


@contextmanager
def fixed_numbers(seed: Sequence[int]) -> Iterator[None]:
    """Draws random numbers of Python and NumPy from a seed, for a while.

    Args:
        seed (Sequence[int]): The seed.
    """
    before = random.getstate(), np.random.get_state()
    random.seed(str(list(seed)))
    np.random.seed(list(seed))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
