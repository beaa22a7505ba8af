# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images that are moved, and the order that a seed decides."""

import numpy as np
import pytest
import torch
from accuracy.data import Images, load_split, moved, part_of, prepare
from PIL import Image


def test_a_folder_is_read_once(tmp_path):
    for label, name in enumerate(('cat', 'dog')):
        folder = tmp_path / 'train' / name
        folder.mkdir(parents=True)
        pixels = np.full((32, 32, 3), 10 * label + 5, np.uint8)
        Image.fromarray(pixels).save(folder / '0.png')
    images, labels = load_split(tmp_path, 'train')
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [0, 1]
    assert images[1].unique().tolist() == [15]
    (tmp_path / 'train' / 'cat' / '0.png').unlink()
    assert torch.equal(load_split(tmp_path, 'train')[0], images)


@pytest.mark.parametrize('shift', [(0, 0), (8, 3), (4, 4)])
def test_moved_is_a_crop_of_the_padded_image(shift):
    image = torch.rand(1, 3, 32, 32)
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
    row, column = shift
    crop = padded[:, :, row : row + 32, column : column + 32]
    found = moved(image, torch.tensor(shift)[:, None], torch.tensor([False]))
    assert torch.equal(found, crop)
    found = moved(image, torch.tensor(shift)[:, None], torch.tensor([True]))
    assert torch.equal(found, crop.flip(3))


def test_an_epoch_shows_every_image_once_in_the_order_of_the_seed(noise):
    pixels, _ = load_split(noise, 'train')
    images = Images(pixels, torch.arange(64), 16, torch.device('cpu'))
    assert images.steps == 4

    def order(seed, epoch):
        batches = list(images.epoch(seed, epoch))
        assert all(b.shape == (16, 3, 32, 32) for b, _ in batches)
        return torch.cat([labels for _, labels in batches]).tolist()

    assert sorted(order(0, 0)) == list(range(64))
    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4


def test_part_and_normalisation(noise):
    pair = load_split(noise, 'train')
    assert part_of(pair, 0) is pair
    pixels, labels = part_of(pair, 10)
    assert len(pixels) == len(labels) == 10
    grey = torch.full((1, 3, 2, 2), 125, dtype=torch.uint8)
    # (125 - mean) / deviation of the red channel
    assert prepare(grey)[0, 0, 0, 0] == pytest.approx(-0.3 / 63, rel=1e-4)
