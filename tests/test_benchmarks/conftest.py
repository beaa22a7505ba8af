# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import step_time
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
