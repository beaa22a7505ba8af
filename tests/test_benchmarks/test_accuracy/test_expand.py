# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The images of the recipes for a tenth of CIFAR-10."""

import torch
from accuracy.expand import RECIPE, tenth_expanded
from mmengine.config import Config


def test_every_tenth_image_in_the_variants_of_the_recipe():
    pixels = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    images, labels = tenth_expanded((pixels, torch.arange(40) // 20))
    data = Config.fromfile(RECIPE).train_dataloader.dataset
    kept = data.dataset.indices
    # Those that the recipe keeps of as many images.
    assert kept[:5] == [0, 10, 20, 30, 40]
    assert images.shape == (6 * 4, 3, 32, 32)
    assert labels.tolist() == [0, 0, 1, 1] * 6
    plain, *others = images.split(4)
    assert torch.equal(plain, pixels[::10])
    # Patches of 16 pixels only change places.
    assert torch.equal(
        others[0].flatten(2).sort().values, plain.flatten(2).sort().values
    )
    assert all(not torch.equal(other, plain) for other in others)
    cut = others[3]
    assert ((cut == plain) | (cut == 0)).all()
    again, _ = tenth_expanded((pixels, torch.arange(40) // 20))
    assert torch.equal(again, images)
