# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A network that takes a second."""

import pytest
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


@pytest.fixture
def entry(tmp_path):
    path = tmp_path / 'small.py'
    path.write_text(CONFIG)
    return Entry(str(path), (3, 32, 32))
