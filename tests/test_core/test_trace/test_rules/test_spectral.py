# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms over space leave channels alone."""

import pytest
import torch
from torch import nn

from mmlapp.core.trace.rules.spectral import PARTS


def filtered(m, x):
    """A global filter: a product of transforms (arXiv 2107.00645)."""
    y = torch.fft.rfft2(m.a(x), dim=(2, 3), norm='ortho')
    y = y * torch.view_as_complex(m.weight)
    y = torch.fft.irfft2(y, s=x.shape[2:], dim=(2, 3), norm='ortho')
    return m.b(y)


def amplitude(m, x):
    y = torch.fft.fftn(m.a(x), dim=(-2, -1))
    return m.b(y.abs() + torch.fft.ifftn(y, dim=(-2, -1)).real)


FORWARDS = {'filter': filtered, 'amplitude': amplitude}


@pytest.mark.parametrize('name', FORWARDS)
def test_transforms_over_space(net, conv, image, agree, name):
    model = net(
        FORWARDS[name],
        a=conv(3, 8),
        weight=nn.Parameter(torch.randn(8, 8, 5, 2)),
        b=conv(8, 5),
    )
    if name == 'amplitude':
        del model.weight
    assert agree(model, image).groups == {'a': 8}


def test_both_parts_of_a_number_follow(net, conv, image, agree):
    """Channels of the real and of the imaginary part lie side by side."""

    def forward(m, x):
        y = torch.fft.fft2(m.a(x)).conj().resolve_conj()
        y = torch.view_as_real(y)
        return m.b(torch.cat(y.unbind(-1), dim=1))

    model = net(forward, a=conv(3, 8), b=conv(16, 5))
    assert agree(model, image).groups == {'a': 8}


def test_a_transform_over_channels(net, conv, image, frozen):
    def forward(m, x):
        y = torch.fft.fft(m.a(x).flatten(2).transpose(1, 2), dim=-1)
        return m.b(y.real.transpose(1, 2).view(2, 8, 8, 8))

    model = net(forward, a=conv(3, 8), b=conv(8, 5))
    reason = frozen(model, image)['a']
    assert reason.startswith('transformed along its channels by aten::_fft')


def test_channels_that_are_a_number_in_two_parts(net, conv, image, frozen):
    def forward(m, x):
        y = m.a(x).permute(0, 2, 3, 1).contiguous()
        return torch.view_as_complex(y).abs()

    model = net(forward, a=conv(3, 2))
    assert frozen(model, image)['a'] == PARTS
