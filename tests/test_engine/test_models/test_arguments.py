# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import re
from inspect import signature

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from mmlapp.core import PruningError
from mmlapp.engine import prunable_model
from mmlapp.engine.models.arguments import (
    CHECKS,
    check_settings,
    check_shape,
    check_unknown,
)


def defaults():
    parameters = signature(prunable_model).parameters
    return {name: parameters[name].default for name in CHECKS}


def test_every_argument_of_ours_is_checked():
    others = {'architecture', 'data_preprocessor', 'settings'}
    assert set(signature(prunable_model).parameters) == {*CHECKS, *others}
    check_settings(defaults())


@pytest.mark.parametrize(
    'setting',
    [
        dict(scope=['backbone', 'neck']),
        dict(ignore='*.conv1'),
        dict(bypass=ConfigDict(type='grouped', norm=True)),
        dict(costs=[dict(type='flops'), 'parameters']),
        dict(input_shape=[1, 28, 28]),
    ],
)
def test_settings_of_the_right_kind_pass(setting):
    check_settings(setting)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('scope', None),
        ('scope', []),
        ('scope', ['backbone', 3]),
        ('ignore', None),
        ('unit', None),
        ('unit', ['channels']),
        ('bypass', ['depthwise']),
        ('bypass', True),
        ('method', 3),
        ('score', None),
        ('normalisation', 1),
        ('normalisation', ['rank']),
        ('costs', 'flops'),
        ('costs', []),
        ('costs', [1]),
        ('keep_streams', 1),
        ('keep_streams', 'no'),
        ('divisor', '8'),
        ('divisor', True),
        ('divisor', 8.0),
        ('min_keep', 1.5),
        ('shrink', 0),
        ('shrink', 2.5),
        ('protect', '0.3'),
        ('protect', 1),
        ('min_keep', [0.3]),
        ('input_shape', 64),
        ('input_shape', (3, 64.0, 64)),
        ('input_shape', (3, 0, 64)),
        ('input_shape', (True, 8, 8)),
        ('input_shape', '333'),
        ('input_shape', ('3', '8', '8')),
        ('input_shape', None),
    ],
)
def test_settings_of_another_kind_are_named(name, value):
    with pytest.raises(PruningError) as info:
        check_settings({**defaults(), name: value})
    message = str(info.value)
    assert name in message
    assert re.search(r'expected|names nothing\. Give', message)


def test_shapes_of_configs_become_tuples():
    assert check_shape([3, 8, 16]) == (3, 8, 16)
    assert check_shape([7]) == (7,)
    assert check_shape(dict(a=[3, 4])) == dict(a=(3, 4))
    assert check_shape(dict(type='f', n=[2])) == dict(type='f', n=[2])


@pytest.mark.parametrize(
    'shape', [(), (3, 0, 8), (3, True, 8), {}, dict(a=(3, 0)), dict(a=3)]
)
def test_what_is_no_shape(shape):
    with pytest.raises(PruningError, match=r'input_shape=.*: expected the sh'):
        check_shape(shape)


@pytest.fixture
def net():
    """A type of model that takes an argument much like one of ours."""

    class Net:
        def __init__(self, backbone, scopes=()):
            pass

    MODELS.register_module(name='NearNet', module=Net)
    yield 'NearNet'
    del MODELS.module_dict['NearNet']


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('divsor', 'divisor'),
        ('by_pass', 'bypass'),
        ('normalization', 'normalisation'),
        ('inputshape', 'input_shape'),
        ('methods', 'method'),
    ],
)
def test_misspelled_arguments_are_recognised(net, name, meant):
    for kind in (net, 'UnknownNet'):
        with pytest.raises(PruningError, match=f'{name}=8: .*mean {meant}?'):
            check_unknown(kind, {'backbone': {}, name: 8})


def test_arguments_of_the_model_are_its_own(net):
    check_unknown(net, dict.fromkeys(['backbone', 'scopes', '_scope_']))
    check_unknown(MODELS.get(net), dict.fromkeys(['backbone', 'scopes']))
    # What takes anything, and what is not known, is asked later.
    check_unknown('UnknownNet', dict.fromkeys(['neck', 'test_cfg']))
    with pytest.raises(PruningError, match=r'depth=None: neither .* nor Near'):
        check_unknown(net, dict.fromkeys(['backbone', 'depth']))
