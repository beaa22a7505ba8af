# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.core.numbers import check_flag, check_number, check_per_channel


@pytest.mark.parametrize('value', [0.5, 1, Fraction(1, 3), np.float32(0.1)])
def test_numbers_pass_as_they_are(value):
    assert check_number('x', value, above=0, most=1) is value


@pytest.mark.parametrize(
    'value', ['1', True, None, float('nan'), float('inf'), [1], 0, 1.1, 1j]
)
def test_everything_else_is_named_with_its_value(value):
    text = re.escape(f'x={value!r}: expected a number above 0 to 1')
    with pytest.raises(PruningError, match=text):
        check_number('x', value, above=0, most=1)


@pytest.mark.parametrize('value', [2.0, 1, True])
def test_whole_numbers(value):
    assert check_number('n', np.int64(2), least=2, whole=True) == 2
    with pytest.raises(PruningError, match=r'expected a whole number from 2$'):
        check_number('n', value, least=2, whole=True)


@pytest.mark.parametrize('value', ['False', 0, 1, None, np.bool_(True)])
def test_truth_values(value):
    assert check_flag('narrow', True)
    text = re.escape(f'narrow={value!r}: expected True or False')
    with pytest.raises(PruningError, match=text):
        check_flag('narrow', value)


def test_a_number_for_every_channel_passes_as_it_is():
    given = torch.ones(3, dtype=torch.bool)
    assert check_per_channel('mask', given, 3) is given


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        ([1.0, 1.0, 1.0], 'got list'),
        (None, 'got NoneType'),
        (np.ones(3), 'got ndarray of shape (3,)'),
        (torch.ones(2), 'got Tensor of shape (2,)'),
        (torch.ones(3, 1), 'got Tensor of shape (3, 1)'),
    ],
)
def test_what_is_no_number_for_every_channel(value, text):
    expected = (
        'mask: expected one number per channel, a tensor of shape (3,); '
    )
    with pytest.raises(PruningError, match=f'^{re.escape(expected + text)}$'):
        check_per_channel('mask', value, 3)
