# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS, DefaultScope

from mmlapp.core import PruningError
from mmlapp.datasets import PatchShuffle


@pytest.fixture(autouse=True)
def _seed():
    np.random.seed(0)


def image_of(height: int, width: int) -> np.ndarray:
    count = height * width * 3
    return np.arange(count, dtype=np.int64).reshape(height, width, 3)


def patches(image: np.ndarray, grid: int) -> list[np.ndarray]:
    """Cut by hand, one after the other."""
    height, width = image.shape[0] // grid, image.shape[1] // grid
    return [
        image[r * height : (r + 1) * height, c * width : (c + 1) * width]
        for r in range(grid)
        for c in range(grid)
    ]


@pytest.mark.parametrize(('grid', 'height', 'width'), [(2, 4, 6), (3, 9, 6)])
def test_patches_change_places_and_stay_whole(
    grid: int, height: int, width: int
) -> None:
    image = image_of(height, width)
    before = patches(image, grid)
    seen = set()
    for _ in range(20):
        results = {'img': image.copy(), 'gt_label': 3}
        found = patches(PatchShuffle(grid)(results)['img'], grid)
        order = tuple(
            next(i for i, b in enumerate(before) if np.array_equal(a, b))
            for a in found
        )
        assert sorted(order) == list(range(grid**2))
        seen.add(order)
    assert len(seen) > 5


def test_every_place_is_as_likely() -> None:
    """Of 24 orders of four patches each first one comes a quarter."""
    image = image_of(2, 2)
    shuffle = PatchShuffle()
    first = [shuffle({'img': image})['img'][0, 0, 0] for _ in range(2000)]
    counts = np.unique(first, return_counts=True)[1]
    # 500 each, with a standard deviation of 19.
    assert counts.shape == (4,)
    assert abs(counts - 500).max() < 80


def test_other_sizes_keep_theirs() -> None:
    constant = np.full((32, 31, 3), 7, np.uint8)
    found = PatchShuffle(3)({'img': constant})['img']
    np.testing.assert_array_equal(found, constant)
    grey = np.full((32, 32, 1), 7, np.uint8)
    assert PatchShuffle(3)({'img': grey})['img'].shape == (32, 32, 1)
    flat = np.full((8, 8), 7, np.uint8)
    assert PatchShuffle(4)({'img': flat})['img'].shape == (8, 8)


def test_it_is_done_as_often_as_asked() -> None:
    image = image_of(8, 8)
    for prob, least, most in ((0.0, 0, 0), (1.0, 99, 100), (0.5, 30, 70)):
        shuffle = PatchShuffle(4, prob)
        changed = sum(
            not np.array_equal(shuffle({'img': image})['img'], image)
            for _ in range(100)
        )
        assert least <= changed <= most


def test_configs_find_it_in_any_scope() -> None:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = TRANSFORMS.build(dict(type='mmlapp.PatchShuffle', grid=3))
    assert repr(built) == 'PatchShuffle(grid=3, prob=1.0)'


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        (dict(grid=1), 'grid=1: expected a whole number from 2'),
        (dict(grid=2.5), r'grid=2\.5: expected'),
        (dict(prob=2), 'prob=2: expected'),
    ],
)
def test_settings_out_of_range(settings: dict, text: str) -> None:
    with pytest.raises(PruningError, match=text):
        PatchShuffle(**settings)


def test_small_images_and_boxes_are_refused() -> None:
    with pytest.raises(PruningError, match=r'grid=4: an image of 3x8'):
        PatchShuffle(4)({'img': image_of(3, 8)})
    with pytest.raises(PruningError, match='moves what gt_bboxes'):
        PatchShuffle()({'img': image_of(8, 8), 'gt_bboxes': []})
