# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from zoo import Entry
from zoo.foreign import LIBRARIES
from zoo.measure import measure


def test_a_network_of_another_library():
    found = measure(Entry('torchvision::shufflenet_v2_x0_5', (3, 64, 64)))
    assert (found.name, found.failed) == (
        'torchvision::shufflenet_v2_x0_5',
        None,
    )
    assert found.share > 0.95
    assert found.counted == pytest.approx(found.ratio)


def test_a_library_that_is_not_installed(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setitem(LIBRARIES, 'timm', missing)
    failed = measure(Entry('timm::resnet18.a1_in1k')).failed
    assert failed == (
        'build: PruningError: timm::resnet18.a1_in1k: timm is not installed; '
        'pip install it'
    )
