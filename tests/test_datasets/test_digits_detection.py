# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The detection data, by itself and under MMDetection's metric."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, METRICS, DefaultScope
from sklearn.datasets import load_digits

from mmlapp.datasets import DigitsDetection

META_KEYS = ('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'instances')
PIPELINE = [
    dict(type='LoadImageFromNDArray'),
    dict(type='Resize', scale=(128, 128)),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=META_KEYS),
]


def build(**kwargs: object) -> DigitsDetection:
    cfg = dict(type='mmlapp.DigitsDetection', pipeline=PIPELINE, **kwargs)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(cfg)


def test_size_and_form() -> None:
    dataset = DigitsDetection(num_images=30, img_size=96, digit_size=(16, 40))
    assert len(dataset) == 30
    for info in dataset:
        assert info['img'].shape == (96, 96, 3)
        assert info['img'].dtype == np.uint8
        assert (info['height'], info['width']) == (96, 96)
        assert 2 <= len(info['instances']) <= 6
        for instance in info['instances']:
            left, top, right, bottom = instance['bbox']
            assert 0 <= left < right <= 96
            assert 0 <= top < bottom <= 96
            assert bottom - top <= 40
            assert instance['bbox_label'] in range(10)
            assert instance['ignore_flag'] == 0


def test_the_same_every_time_and_in_any_order() -> None:
    one = DigitsDetection(num_images=12)
    other = DigitsDetection(num_images=12)
    backwards = {i: other[i] for i in reversed(range(12))}
    for index in range(12):
        first, second = one[index], backwards[index]
        np.testing.assert_array_equal(first['img'], second['img'])
        assert first['instances'] == second['instances']


def test_more_images_keep_the_first() -> None:
    few, many = (DigitsDetection(num_images=n) for n in (3, 8))
    np.testing.assert_array_equal(few[2]['img'], many[2]['img'])


@pytest.mark.parametrize('change', [dict(seed=1), dict(split='test')])
def test_seed_and_split_change_the_image(change: dict) -> None:
    one = DigitsDetection(num_images=1)
    other = DigitsDetection(num_images=1, **change)
    assert not np.array_equal(one[0]['img'], other[0]['img'])


def test_a_pipeline_does_not_change_the_data() -> None:
    dataset = DigitsDetection(num_images=1)
    dataset[0]['img'][:] = 0
    dataset[0]['instances'].clear()
    assert dataset[0]['img'].max() > 0
    assert dataset[0]['instances']


def test_subset_shows_the_same_images() -> None:
    dataset = DigitsDetection(num_images=6)
    subset = dataset.get_subset([4, 2])
    np.testing.assert_array_equal(subset[0]['img'], dataset[4]['img'])


def ink_mask(img: np.ndarray) -> np.ndarray:
    """Where an image without noise departs from its commonest colour."""
    colours, counts = np.unique(img.reshape(-1, 3), axis=0, return_counts=True)
    return (img != colours[counts.argmax()]).any(axis=2)


def bounds(mask: np.ndarray) -> list[float]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]


def int_boxes(info: dict) -> np.ndarray:
    return np.array([i['bbox'] for i in info['instances']], dtype=int)


def test_box_is_that_of_the_pixels() -> None:
    dataset = DigitsDetection(num_images=60, num_digits=(1, 1), noise=0)
    for info in dataset:
        (instance,) = info['instances']
        assert instance['bbox'] == bounds(ink_mask(info['img']))


def test_ink_on_every_side_of_a_box_can_be_seen() -> None:
    """A fifth of the least contrast between ink and paper, 80 levels."""
    for info in DigitsDetection(num_images=60, num_digits=(1, 1), noise=0):
        ((left, top, right, bottom),) = int_boxes(info)
        img = info['img'].astype(int)
        contrast = (img - np.median(img, axis=(0, 1))).max(axis=2)
        window = contrast[top:bottom, left:right]
        for side in (window[0], window[-1], window[:, 0], window[:, -1]):
            assert side.max() >= 15


def test_ink_lies_in_the_boxes_and_touches_their_sides() -> None:
    for info in DigitsDetection(num_images=20, noise=0):
        ink = ink_mask(info['img'])
        outside = ink.copy()
        for left, top, right, bottom in int_boxes(info):
            window = ink[top:bottom, left:right]
            assert bounds(window) == [0, 0, right - left, bottom - top]
            outside[top:bottom, left:right] = False
        assert not outside.any()


def test_noise_has_the_deviation_asked_for() -> None:
    quiet = DigitsDetection(num_images=1, noise=0)[0]['img']
    noisy = DigitsDetection(num_images=1, noise=5)[0]['img']
    paper = ~ink_mask(quiet)
    difference = noisy[paper].astype(float) - quiet[paper]
    far_from_black = quiet[paper].min(axis=0) > 25
    assert difference[:, far_from_black].std() == pytest.approx(5, rel=0.05)


def most_covered(info: dict) -> int:
    covered = np.zeros(info['img'].shape[:2], dtype=int)
    for left, top, right, bottom in int_boxes(info):
        covered[top:bottom, left:right] += 1
    return int(covered.max())


def test_overlap_is_limited() -> None:
    crowded = dict(num_images=20, num_digits=(6, 6), img_size=96)
    alone = [
        most_covered(i) for i in DigitsDetection(**crowded, max_overlap=0)
    ]
    free = [most_covered(i) for i in DigitsDetection(**crowded, max_overlap=1)]
    assert set(alone) == {1}
    assert max(free) > 2
    for info in DigitsDetection(**crowded, max_overlap=0.1):
        for one, other in itertools.combinations(int_boxes(info), 2):
            low, high = np.maximum(one, other)[:2], np.minimum(one, other)[2:]
            shared = np.prod(np.maximum(high - low, 0))
            smaller = min(np.prod(b[2:] - b[:2]) for b in (one, other))
            assert shared <= 0.1 * smaller


def nearest_label(ink: np.ndarray) -> int:
    """Label of the scan of sklearn that looks most like the ink."""
    digits, best, label = load_digits(), 0.0, -1
    for scan, target in zip(digits.images, digits.target, strict=True):
        dark = np.where(scan < 0.2 * 16, 0, scan)
        left, top, right, bottom = bounds(dark > 0)
        dark = dark[top:bottom, left:right]
        if dark.shape == ink.shape:
            norms = np.linalg.norm(dark) * np.linalg.norm(ink)
            similarity = (dark * ink).sum() / norms
            if similarity > best:
                best, label = similarity, int(target)
    return label


def test_labels_are_those_of_sklearn() -> None:
    """Scans shown in their own size can be looked up."""
    dataset = DigitsDetection(
        split='test',
        num_images=15,
        num_digits=(1, 1),
        digit_size=(8, 8),
        noise=0,
    )
    for info in dataset:
        ((left, top, right, bottom),) = int_boxes(info)
        grey = info['img'].sum(axis=2).astype(float)
        paper = np.median(grey)
        ink = grey[top:bottom, left:right] - paper
        assert nearest_label(ink) == info['instances'][0]['bbox_label']


def perfect_predictions(dataset: DigitsDetection) -> list[dict]:
    samples = []
    for item in dataset:
        sample = item['data_samples']
        gt = sample.gt_instances
        sample.pred_instances = gt.new(
            bboxes=gt.bboxes.tensor,
            labels=gt.labels,
            scores=torch.ones(len(gt.labels)),
        )
        samples.append(sample.to_dict())
    return samples


def average_precision(dataset: DigitsDetection, samples: list[dict]) -> float:
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(dict(type='CocoMetric', metric='bbox'))
    metric.dataset_meta = dataset.metainfo
    metric.process({}, samples)
    return metric.evaluate(len(samples))['coco/bbox_mAP']


def test_perfect_detector_has_ap_of_one() -> None:
    dataset = build(num_images=12, test_mode=True)
    samples = perfect_predictions(dataset)
    assert average_precision(dataset, samples) == 1.0


def test_wrong_labels_have_ap_of_zero() -> None:
    dataset = build(num_images=12, test_mode=True)
    samples = perfect_predictions(dataset)
    for sample in samples:
        labels = sample['pred_instances']['labels']
        sample['pred_instances']['labels'] = (labels + 1) % 10
    assert average_precision(dataset, samples) < 0.1


def test_batch_of_mmdet() -> None:
    batch = pseudo_collate([build(num_images=2)[i] for i in range(2)])
    assert [x.shape for x in batch['inputs']] == [(3, 128, 128)] * 2
    sample = batch['data_samples'][0]
    assert sample.img_id == 0
    assert len(sample.gt_instances.bboxes) == len(sample.instances)


def test_categories() -> None:
    dataset = DigitsDetection(num_images=2)
    expected = [i['bbox_label'] for i in dataset[1]['instances']]
    assert dataset.get_cat_ids(1) == expected
    assert dataset.metainfo['classes'] == tuple('0123456789')


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(split='val'), "split='val': expected one of"),
        (dict(num_images=0), 'num_images=0: expected at least 1'),
        (dict(seed=-1), 'seed=-1: expected 0 or more'),
        (dict(num_digits=(0, 3)), r'num_digits=\(0, 3\): .* at least 1'),
        (dict(num_digits=(4, 3)), r'num_digits=\(4, 3\): expected \(small'),
        (dict(digit_size=(4, 30)), r'digit_size=\(4, 30\): .* at least 8'),
        (dict(digit_size=(20, 200)), 'digit_size=.* at most 128'),
        (dict(digit_size=(20, 30, 40)), 'digit_size=.* expected .smallest'),
        (dict(max_overlap=1.5), r'max_overlap=1.5: expected a part'),
        (dict(noise=-1), 'noise=-1: expected 0 or more'),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDetection(**kwargs)
