# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from mmengine.registry import DefaultScope

from mmlapp.engine.models.default_scope import default_scope_of


@pytest.mark.parametrize(
    ('cfg', 'name'),
    [
        ({'default_scope': 'mmdet'}, 'mmdet'),
        ({'default_scope': None}, 'mmengine'),
        ({}, 'mmengine'),
    ],
)
def test_the_scope_of_a_config_holds_inside_alone(cfg, name):
    """Whatever scope there was before; a config without one has none of it."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        with default_scope_of(cfg):
            assert DefaultScope.get_current_instance().scope_name == name
        scope = DefaultScope.get_current_instance().scope_name
    assert scope == 'mmpretrain'
