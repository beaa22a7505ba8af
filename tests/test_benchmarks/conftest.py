# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import step_time
import torch
from torch import nn
from zoo import Entry

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmlapp'])
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
"""


def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 4, 3),
        nn.Flatten(),
    )


@pytest.fixture
def small(monkeypatch):
    """Name of a network that the measures of time know."""
    # A third of the FLOPs is left where both groups keep half.
    monkeypatch.setitem(step_time.CASES, 'small', (build, (2, 3, 8, 8), 0.34))
    return 'small'


@pytest.fixture
def entry(tmp_path):
    """A network that takes a second."""
    path = tmp_path / 'small.py'
    path.write_text(CONFIG)
    return Entry(str(path), (3, 32, 32))


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
