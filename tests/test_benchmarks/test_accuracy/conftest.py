# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch


@pytest.fixture
def noise(tmp_path):
    """Folder with noise where the images of CIFAR-10 are cached."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (('train', 64), ('test', 20)):
        pixels = torch.randint(
            256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator
        )
        torch.save(
            (pixels, torch.arange(count) % 10), tmp_path / f'{split}.pt'
        )
    return tmp_path
