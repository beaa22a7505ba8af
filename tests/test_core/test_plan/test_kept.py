# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.core.plan.kept import Kept


@pytest.mark.parametrize(
    ('index', 'text'),
    [
        ((), ''),
        ((0,), '0'),
        ((0, 1), '0-1'),
        ((1, 3, 5), '1,3,5'),
        ((0, 1, 2, 5, 7, 8), '0-2,5,7-8'),
    ],
)
def test_ranges(index, text):
    assert Kept(9, index).text() == text
    assert Kept.parse(9, text) == Kept(9, index)


@pytest.mark.parametrize('index', [(), (0,), (1, 2, 5)])
def test_positions(index):
    found = Kept(8, index).positions(torch.device('cpu'))
    assert found.dtype == torch.int64
    assert found.tolist() == list(index)


def test_masks_and_texts_of_random_indices_come_back():
    for _ in range(50):
        mask = torch.rand(40) > 0.4
        kept = Kept.from_mask(mask)
        assert torch.equal(kept.mask(), mask)
        assert Kept.parse(40, kept.text()) == kept


@pytest.mark.parametrize('index', [(1, 0), (2, 2), (-1, 0), (3, 4), (4,)])
def test_indices_outside_or_out_of_order(index):
    with pytest.raises(PruningError, match='ascending numbers from 0 to 3'):
        Kept(4, index)


@pytest.mark.parametrize(
    'text',
    [
        'a',
        '1-',
        '-1',
        '1;2',
        '3-1',
        '0-3-5',
        '1.5',
        '+1',
        ' 1',
        '01',
        '1_0',
        '1,,2',
        '\u0661',
    ],
)
def test_malformed_ranges(text):
    with pytest.raises(PruningError, match='kept indices'):
        Kept.parse(9, text)


@pytest.mark.parametrize('text', [f'0-{10**15}', '0-9', '0-3,3-4', '2,1,'])
def test_ranges_beyond_the_size_or_out_of_order(text):
    with pytest.raises(PruningError, match='kept indices'):
        Kept.parse(9, text)


@pytest.mark.parametrize('size', [-1, 2**31])
def test_sizes_of_no_tensor(size):
    with pytest.raises(PruningError, match=f'size {size}: expected 0 to'):
        Kept.parse(size, '')


def test_neighbouring_ranges_are_one():
    """Equal indices are equal, whoever wrote them."""
    assert Kept.parse(9, '0-1,2,3-4') == Kept(9, range(5))
    assert hash(Kept.parse(9, '0,1')) == hash(Kept(9, (0, 1)))
    assert Kept.parse(9, '0-1,2,4').count == 4


@pytest.mark.parametrize('size', range(4))
def test_whole_if_nothing_is_removed(size):
    for bits in range(2**size):
        index = [i for i in range(size) if bits >> i & 1]
        assert Kept(size, index).whole is (len(index) == size)
