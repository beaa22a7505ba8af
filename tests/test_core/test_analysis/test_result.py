# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from mmlapp.core import analyse
from mmlapp.core.units import Filters


def test_what_was_found(model, images, count_macs):
    found = analyse(
        model, lambda: model(images), bypass='depthwise', unit='filters'
    )
    assert isinstance(found.unit, Filters)
    assert found.bypass == {'type': 'depthwise'}
    assert found.flops == count_macs(model, images)
    assert set(found.branches) | set(found.without) == set('abcd')
    prunable = {group.name for group in found.groups.prunable}
    assert prunable == set(found.branches)
