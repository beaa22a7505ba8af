# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where a kernel lies inside another one, and where it does not."""

import pytest
import torch
from torch import nn

from mmlapp.core import merge_bypasses
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.bypass.beside import add_bypass
from mmlapp.core.bypass.kernels import merge_convolution

GROUPED = 'its convolution is grouped or transposed'
OUTSIDE = 'its kernel does not lie inside that of its convolution'


def beside(conv):
    """A branch of any convolution, beside any other."""
    branch = BRANCHES.build('depthwise', nn.Conv2d(8, 8, 3))
    branch.conv = conv
    return branch


@pytest.mark.parametrize(
    ('main', 'branch', 'reason'),
    [
        (nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8), GROUPED),
        (
            nn.ConvTranspose2d(8, 8, 3),
            nn.ConvTranspose2d(8, 8, 3, groups=8),
            GROUPED,
        ),
        (
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 5, padding=2),
            OUTSIDE,
        ),
        (
            nn.Conv2d(8, 8, 5, padding=4, dilation=2),
            nn.Conv2d(8, 8, 3, padding=1),
            OUTSIDE,
        ),
        (
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode='reflect'),
            OUTSIDE,
        ),
        (
            nn.Conv2d(8, 8, 3, padding=2),
            nn.Conv2d(8, 8, 1, padding=1, padding_mode='reflect'),
            OUTSIDE,
        ),
        (
            nn.Conv2d(8, 8, 3, padding=4, dilation=3),
            nn.Conv2d(8, 8, 1, padding=0),
            OUTSIDE,
        ),
    ],
)
def test_what_is_not_inside_stays(main, branch, reason):
    branch.bias = None
    add_bypass(main, beside(branch))
    model = nn.Sequential(main)
    x = torch.rand(1, 8, 9, 9)
    if branch.kernel_size == (1, 1):
        assert merge_bypasses(model) == {'0': reason}
        return
    expected = model(x)
    assert merge_bypasses(model) == {'0': reason}
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    'geometry',
    [
        dict(),
        dict(stride=2),
        dict(dilation=2, padding=4),
        dict(padding=(1, 2), kernel_size=(3, 5)),
    ],
)
def test_a_kernel_in_the_middle_of_a_larger_one(geometry):
    """Both run and are added, against one with the sum of both."""
    size = geometry.pop('kernel_size', 5)
    pad = geometry.pop('padding', 2)
    layer = nn.Conv2d(4, 6, size, padding=pad, **geometry).double()
    pad = tuple(
        p - d * (k - 1) // 2
        for p, d, k in zip(
            layer.padding, layer.dilation, layer.kernel_size, strict=True
        )
    )
    point = nn.Conv2d(
        4, 6, 1, stride=layer.stride, padding=pad, bias=False
    ).double()
    x = torch.randn(2, 4, 11, 11).double()
    expected = layer(x) + point(x)
    merge_convolution(layer, point, None)
    torch.testing.assert_close(layer(x), expected)


def test_a_refusal_changes_nothing():
    layer = nn.Conv2d(4, 4, 3)
    before = layer.weight.detach().clone()
    with pytest.raises(Exception, match=OUTSIDE):
        merge_convolution(layer, nn.Conv2d(4, 4, 5, bias=False), None)
    assert torch.equal(layer.weight, before)
