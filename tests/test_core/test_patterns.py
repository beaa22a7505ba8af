# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.core import PruningError, analyse
from mmlapp.core.patterns import matches


@pytest.mark.parametrize(
    ('name', 'patterns', 'expected'),
    [
        ('backbone.layer1.0.conv1', ['backbone'], True),
        ('backbone.layer1.0.conv1', ['back'], False),
        ('backbone.layer1.0.conv1', ['backbone.layer1'], True),
        ('backbone.layer1.0.conv1', ['*.conv1'], True),
        ('backbone.layer1.0.conv1', ['*.conv2', 'backbone.layer?'], True),
        ('backbone.layer10.conv1', ['backbone.layer1'], False),
        ('neck', ['*'], True),
        ('', ['*'], True),
        ('neck', [], False),
        ('Neck', ['neck'], False),
    ],
)
def test_patterns(name, patterns, expected):
    assert matches(name, patterns) is expected


@pytest.mark.parametrize('value', [None, 5, [5], {'a': 1}])
@pytest.mark.parametrize('argument', ['scope', 'ignore'])
def test_patterns_are_texts(model, images, argument, value):
    with pytest.raises(PruningError, match=f'{argument}=.*expected a pattern'):
        analyse(model, lambda: model(images), **{argument: value})
