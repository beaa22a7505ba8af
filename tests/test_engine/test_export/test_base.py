# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import logging
import warnings

import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.engine.export.base import (
    Settings,
    check_packages,
    open_dimensions,
    without_warnings,
)


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        (dict(dynamic='all'), "dynamic='all': choose one of: none, batch"),
        (dict(opset=0), 'opset=0'),
        (dict(opset='18'), "opset='18'"),
    ],
)
def test_settings_are_checked(settings, text):
    with pytest.raises(PruningError, match=text):
        Settings(**settings)


def test_sizes_are_open_as_far_as_networks_allow():
    images = torch.zeros(2, 3, 64, 128)
    found = dict(open_dimensions(images, Settings('size')))
    assert list(found) == [1, 32, 64]
    names = [
        [dim.__name__ for dim in dims.values()] for dims in found.values()
    ]
    assert names == [
        ['batch', 'height', 'width'],
        ['batch', '32*height', '32*width'],
        ['batch', '64*height', '64*width'],
    ]
    assert found[1][2].min == 32
    assert list(open_dimensions(images, Settings('none'))) == [(1, {})]


def test_settings_of_one_format_among_several():
    settings = Settings('size', opset=20, slim=True, fp16=True)
    assert settings.only(['fp16', 'opset']) == Settings(opset=20, fp16=True)
    settings.check_taken(['dynamic', 'opset', 'slim', 'fp16'], 'all')
    with pytest.raises(PruningError, match='slim=True has no effect on it'):
        settings.check_taken(['dynamic', 'opset', 'fp16'], 'it')


def test_packages_are_named_with_the_command():
    check_packages('onnx', ['torch'])
    with pytest.raises(PruningError, match='pip install nowhere nothing, or'):
        check_packages('onnx', ['torch', 'nowhere', 'nothing'])


def test_levels_of_loggers_come_back():
    logger = logging.getLogger('torch.onnx')
    before = logger.level
    with without_warnings():
        warnings.warn('not shown', stacklevel=1)
        assert not logger.isEnabledFor(logging.WARNING)
    assert logger.level == before
