# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import random
from typing import Any

import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope

from mmlapp.core import PruningError
from mmlapp.datasets import Digits, ExpandedDataset
from mmlapp.datasets.expanded import fixed_numbers

# The six of CURL, for images of 16 pixels.
VARIANTS = [
    [],
    *([dict(type='mmlapp.PatchShuffle', grid=k)] for k in (2, 3, 4)),
    [
        dict(
            type='Cutout',
            magnitude_range=(3.2, 8),
            magnitude_std='inf',
            pad_val=0,
            prob=1.0,
        )
    ],
    [
        dict(
            type='Rotate',
            magnitude_range=(0, 360),
            magnitude_std='inf',
            random_negative_prob=0.0,
            pad_val=0,
            prob=1.0,
        )
    ],
]


@pytest.fixture(scope='module')
def data() -> ExpandedDataset:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(
            dict(
                type='mmlapp.ExpandedDataset',
                dataset=dict(type='mmlapp.Digits', img_size=16, indices=10),
                variants=VARIANTS,
            )
        )


def test_every_image_is_there_in_every_variant(data: ExpandedDataset) -> None:
    plain = Digits(img_size=16, indices=10)
    assert len(data) == 60
    assert data.metainfo['classes'] == plain.metainfo['classes']
    for index in (0, 9):
        np.testing.assert_array_equal(data[index]['img'], plain[index]['img'])
        for variant in range(1, 6):
            entry = data[10 * variant + index]
            assert entry['gt_label'] == plain[index]['gt_label']
            assert entry['sample_idx'] == 10 * variant + index
            assert entry['img'].shape == (16, 16, 3)
            assert (entry['img'] != plain[index]['img']).any()
    assert data.get_data_info(23)['sample_idx'] == 23
    assert data.get_cat_ids(23) == [plain[3]['gt_label']]


def test_variants_stay_the_same(data: ExpandedDataset) -> None:
    """In all epochs, whatever was drawn meanwhile; images differ."""
    for index in (21, 43, 55):
        first = data[index]['img']
        np.random.rand(7), random.random()
        np.testing.assert_array_equal(data[index]['img'], first)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        other = ExpandedDataset(data.dataset, VARIANTS, seed=1)
    assert (other[55]['img'] != data[55]['img']).any()


def test_the_numbers_of_the_training_go_on(data: ExpandedDataset) -> None:
    np.random.seed(3)
    random.seed(3)
    expected = np.random.rand(), random.random()
    np.random.seed(3)
    random.seed(3)
    for index in (15, 45, 55):
        data[index]
    assert (np.random.rand(), random.random()) == expected


def test_each_image_has_numbers_of_its_own() -> None:
    drawn = []
    for index in (0, 1, 2, 0):
        with fixed_numbers([0, index]):
            drawn.append((np.random.rand(), random.random()))
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]


def test_augmentation_after_it_is_drawn_anew() -> None:
    def noise(results: dict[str, Any]) -> dict[str, Any]:
        results['noise'] = np.random.rand()
        return results

    inner = [dict(img=1), dict(img=2)]
    data = ExpandedDataset(inner, [[], [noise]], [noise])
    assert data[3]['noise'] != data[3]['noise']


def test_entries_end_somewhere(data: ExpandedDataset) -> None:
    for index in (60, -1):
        with pytest.raises(IndexError, match=f'{index} of 60'):
            data[index]


@pytest.mark.parametrize('variants', [[], None, 'PatchShuffle', [dict()]])
def test_variants_of_another_form_are_refused(variants: Any) -> None:
    with pytest.raises(PruningError, match='variants'):
        ExpandedDataset(object(), variants)
