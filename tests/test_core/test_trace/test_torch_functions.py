# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Channels stay for what Python reads of them, and for widths."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmlapp.core.trace.torch_functions import SCALED, pad

READS = {
    'equal': ('aten::equal', lambda x: torch.equal(x, x)),
    'allclose': ('aten::allclose', lambda x: torch.allclose(x, x)),
    'list': ('Tensor.tolist', lambda x: len(x.tolist())),
    'numpy': ('Tensor.numpy', lambda x: float(x.numpy().mean())),
    'as array': ('Tensor.__array__', lambda x: float(np.asarray(x).mean())),
    'pointer': ('Tensor.data_ptr', lambda x: x.data_ptr() > 0),
}


@pytest.mark.parametrize('name', READS)
def test_channels_that_python_reads_are_frozen(
    net, conv, image, agree, frozen, name
):
    operator, read = READS[name]
    model = net(
        lambda m, x: m.c(m.b((y := m.a(x)) * (1 + read(y)))),
        a=conv(3, 8),
        b=conv(8, 6),
        c=conv(6, 5),
    )
    assert frozen(model, image)['a'] == f'made a Python value by {operator}'
    assert agree(model, image).groups == {'b': 6}


def test_numbers_of_what_has_no_channels_are_free(net, conv, image, agree):
    """Shapes, the input, and a sum to which removed channels add nothing."""

    def forward(m, x):
        y = m.a(x).relu()
        scale = x.tolist()[0][0][0][0] + x.mean().item() + y.sum().item()
        return m.b(y * scale * torch.equal(x, x))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    assert agree(model, image).groups == {'a': 8}


@pytest.mark.parametrize('named', [False, True])
@pytest.mark.parametrize('scale', [None, 0.3])
def test_attention_scales_by_the_width(
    net, conv, image, agree, frozen, scale, named
):
    """A scale of the code is as good for fewer channels."""

    def forward(m, x):
        x = m.a(x).flatten(2).transpose(1, 2)
        y = (
            functional.scaled_dot_product_attention(
                query=x, key=x, value=x, scale=scale
            )
            if named
            else functional.scaled_dot_product_attention(x, x, x, scale=scale)
        )
        return m.c(m.b(y.transpose(1, 2).unflatten(2, (8, 8))))

    model = net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 5))
    assert frozen(model, image).get('a') == (None if scale else SCALED)
    assert agree(model, image).groups == {
        'b': 6,
        **({'a': 8} if scale else {}),
    }


PADS = [(1, 2), (2, 0, 0, 1), (1, 1, 0, 3, 2, 1), (0, 0)]


@pytest.mark.parametrize('size', PADS, ids=str)
def test_circular_padding_is_that_of_torch(size):
    x = torch.rand([2, 3] + [4] * (len(size) // 2))
    expected = functional.pad(x, size, mode='circular')
    assert torch.equal(pad(x, size, 'circular', None), expected)


@pytest.mark.parametrize('size', [(1, 2, 0, 3), (-1, 2, 1, -2)], ids=str)
def test_channels_go_on_through_circular_padding(
    net, conv, image, agree, frozen, size
):
    """What is cut off by a negative size is left to torch."""
    model = net(
        lambda m, x: m.b(functional.pad(m.a(x), size, mode='circular')),
        a=conv(3, 8),
        b=conv(8, 5, padding=1, padding_mode='circular'),
    )
    if min(size) < 0:
        assert frozen(model, image)['a'] == 'written into a part of a tensor'
    else:
        assert agree(model, image).groups == {'a': 8}
