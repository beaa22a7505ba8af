# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
from mmengine.registry import DefaultScope

from mmlapp.core import PruningError
from mmlapp.engine.models.architecture import build_architecture

SETTINGS = dict(
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
WHOLE = dict(type='ImageClassifier', **SETTINGS)
TOP, OWN = (dict(mean=[x] * 3, std=[1.0] * 3) for x in (5.0, 7.0))


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def mean_of(model):
    return model.data_preprocessor.mean.flatten().tolist()


@pytest.mark.parametrize(
    ('architecture', 'settings'), [('ImageClassifier', SETTINGS), (WHOLE, {})]
)
def test_both_forms_build_the_same(architecture, settings):
    """They are not changed, and the top level's preprocessor comes second."""
    before = copy.deepcopy((architecture, settings))
    model = build_architecture(architecture, settings, TOP)
    assert type(model).__name__ == 'ImageClassifier'
    assert repr(model.backbone) == repr(
        build_architecture(WHOLE, {}, None).backbone
    )
    assert mean_of(model) == [5.0] * 3
    assert (architecture, settings) == before


def test_a_preprocessor_inside_comes_first():
    flat = {**SETTINGS, 'data_preprocessor': OWN}
    whole = {**WHOLE, 'data_preprocessor': OWN}
    assert mean_of(build_architecture('ImageClassifier', flat, TOP)) == [7] * 3
    assert mean_of(build_architecture(whole, {}, TOP)) == [7] * 3
    assert set(OWN) == {'mean', 'std'}  # mmpretrain adds to it


def test_arguments_go_with_a_type_alone():
    text = r"arguments \['a', 'head'\]: architecture is a whole config"
    with pytest.raises(PruningError, match=text):
        build_architecture(WHOLE, dict(head={}, a=1), None)
