# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images are told apart, and known again elsewhere."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset

from mmlapp.datasets import ExpandedDataset
from mmlapp.engine.distillation.image_ids import image_ids, image_key


class Files(BaseDataset):
    """Names of files, with labels."""

    def __init__(self, root: str, *names: str) -> None:
        self.names = names
        super().__init__(data_root=root, data_prefix=dict(img='train'))

    def load_data_list(self) -> list[dict[str, Any]]:
        folder = self.data_prefix['img']
        return [
            dict(img_path=f'{folder}/{name}', gt_label=len(name))
            for name in self.names
        ]


class Pixels:
    """Images in memory."""

    numbers_images = True

    def __init__(self, *values: int) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def get_data_info(self, index: int) -> dict[str, Any]:
        return dict(img=np.full((2, 2, 3), self.values[index], np.uint8))


def same(first: Any, second: Any) -> list[bool]:
    """Which ids of two data sets agree."""
    found: list[bool] = (image_ids(first) == image_ids(second)).tolist()
    return found


def test_images_are_known_in_another_folder() -> None:
    here, there = Files('data/', 'a.png', 'b.png'), Files('/d', 'a.png', 'c')
    assert image_ids(here).dtype == torch.int64
    assert same(here, there) == [True, False]
    assert image_key(there, 0) == 'train/a.png, gt_label=5'
    wrapped = SimpleNamespace(dataset=there, get_data_info=there.get_data_info)
    assert image_key(wrapped, 0) == image_key(there, 0)


def test_other_labels_and_pixels_are_others() -> None:
    files = Files('data/', 'a.png')
    files.full_init()
    relabelled = Files('data/', 'a.png')
    relabelled.get_data_info = lambda index: {
        **files.get_data_info(index), 'gt_label': 7
    }  # fmt: skip
    assert same(files, relabelled) == [False]
    assert same(Pixels(3, 4, 5), Pixels(3, 5, 5)) == [True, False, True]
    ids = image_ids(Pixels(*range(100)))
    assert len(ids.unique()) == 100


@pytest.mark.parametrize(
    ('variants', 'seed', 'expected'),
    [
        ([[], [dict(type='mmlapp.PatchShuffle', grid=2)]], 0, [True, True]),
        ([[], [dict(type='mmlapp.PatchShuffle', grid=3)]], 0, [True, False]),
        ([[], [dict(grid=2, type='mmlapp.PatchShuffle')]], 0, [True, True]),
        ([[], [dict(type='mmlapp.PatchShuffle', grid=2)]], 1, [False, False]),
        ([[], [lambda results: results]], 0, [True, False]),
    ],
)
def test_variants_are_images_of_their_own(
    variants: Any, seed: int, expected: list[bool]
) -> None:
    inner = ConcatDataset([Files('data/', 'a.png')])
    shuffled = dict(type='mmlapp.PatchShuffle', grid=2)
    first = ExpandedDataset(inner, [[], [shuffled]])
    assert same(first, ExpandedDataset(inner, variants, seed=seed)) == expected
    assert len(image_ids(first).unique()) == 2


def test_without_information_the_index_tells() -> None:
    ids = image_ids([0, 1, 2])
    assert len(ids.unique()) == 3
    assert image_key([0, 1, 2], 1) == 'index 1'
