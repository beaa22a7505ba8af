# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The classification data, by itself and in a pipeline of MMPretrain."""

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from sklearn.datasets import load_digits

from mmlapp.datasets import Digits


def test_images_are_the_scans_of_sklearn() -> None:
    dataset = Digits(split='train', img_size=8)
    assert len(dataset) == 1438
    first = load_digits().images[0]
    img = dataset[0]['img']
    assert img.dtype == np.uint8
    assert img.shape == (8, 8, 3)
    for channel in range(3):
        np.testing.assert_array_equal(
            img[..., channel], (first * 255 / 16).round()
        )


def test_enlarged_images_shrink_back() -> None:
    small = Digits(split='test', img_size=8)
    large = Digits(split='test', img_size=32)
    for index in range(0, 359, 50):
        back = cv2.resize(
            large[index]['img'], (8, 8), interpolation=cv2.INTER_AREA
        )
        pixels = back.ravel(), small[index]['img'].ravel()
        assert np.corrcoef(*pixels)[0, 1] > 0.97
        assert large[index]['gt_label'] == small[index]['gt_label']


def test_the_same_every_time() -> None:
    one, other = Digits(split='test'), Digits(split='test')
    for index in range(len(one)):
        np.testing.assert_array_equal(one[index]['img'], other[index]['img'])
        assert one[index]['gt_label'] == other[index]['gt_label']


def test_a_pipeline_does_not_change_the_data() -> None:
    def blacken(results: dict) -> dict:
        results['img'][:] = 0
        return results

    dataset = Digits(split='test', pipeline=[blacken])
    assert dataset[0]['img'].max() == 0
    assert dataset.get_data_info(0)['img'].max() > 0


def test_pipeline_of_mmpretrain() -> None:
    cfg = dict(
        type='mmlapp.Digits',
        split='train',
        img_size=16,
        pipeline=[
            dict(type='RandomCrop', crop_size=16, padding=2),
            dict(type='PackInputs'),
        ],
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(cfg)
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 16, 16)
    assert sample['data_samples'].gt_label.tolist() == [3]


def test_classes_and_categories() -> None:
    dataset = Digits(split='test')
    assert dataset.metainfo['classes'] == tuple('0123456789')
    labels = [dataset[i]['gt_label'] for i in range(len(dataset))]
    assert [dataset.get_cat_ids(i) for i in range(5)] == [
        [label] for label in labels[:5]
    ]
    assert set(labels) == set(range(10))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(split='val'), "split='val': expected one of"),
        (dict(img_size=4), 'img_size=4: expected at least 8'),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Digits(**kwargs)
