# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A branch of one's own, and choices that do not exist."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mmlapp.core import (
    Branch,
    ConvBranch,
    PruningError,
    attach,
    merge_bypasses,
    narrow,
    register_branch,
)
from mmlapp.core.bypass import BRANCHES


def test_a_bypass_of_ones_own(net, conv, image, agree):
    @register_branch('test_half')
    class Half(ConvBranch):
        def make(self, layer):
            return self.beside(layer, groups=2)

    model = net(
        lambda m, x: m.c(m.b(m.a(x)).relu()),
        a=conv(3, 8),
        b=conv(8, 16),
        c=conv(16, 6),
    )
    result = agree(model, image, bypass='test_half')
    assert 'b' in result.plan.branches
    assert BRANCHES['test_half'] is Half


@pytest.mark.parametrize(
    'wrong',
    [
        lambda c: nn.Conv2d(c.in_channels, c.out_channels, 1),
        lambda c: nn.Conv2d(c.in_channels, c.out_channels // 2, 1, bias=False),
        lambda c: nn.Identity(),
    ],
)
def test_a_bypass_of_ones_own_that_does_not_fit(
    net, conv, image, monkeypatch, wrong
):
    class Wrong(ConvBranch):
        def make(self, layer):
            return wrong(layer)

    monkeypatch.setitem(BRANCHES._entries, 'wrong', Wrong)
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 5))
    with pytest.raises(PruningError, match=r'Wrong.make returned.*same chan'):
        attach(model, image, bypass='wrong')


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        (dict(type='wide'), "bypass='wide' is unknown.*depthwise.*grouped"),
        (dict(width=2), 'it takes norm'),
    ],
)
def test_unknown_choices(model, images, arguments, match):
    with pytest.raises(PruningError, match=match):
        attach(model, images, bypass={'type': 'depthwise', **arguments})


class Bias(Branch):
    """No convolution at all: one number per output channel."""

    def __init__(self, layer):
        super().__init__()
        width, weight = layer.out_channels, layer.weight
        self.shift = nn.Parameter(torch.rand(width, dtype=weight.dtype))

    def forward(self, x):
        return self.shift.view(1, -1, 1, 1)

    def calls(self, name, call, ends):
        return []

    def gated(self) -> Iterator[tuple[str, str]]:
        yield '', 'shift'

    def narrow(self, kept_in, kept_out):
        from mmlapp.core.heirs import Heir

        old = self.shift

        def take(value):
            return value.detach()[kept_out].clone()

        self.shift = nn.Parameter(take(old))
        return self, {old: [Heir(self.shift, take)]}


def test_a_branch_that_is_no_convolution(plain, image, mask_randomly):
    """Masked, narrowed with its layer; it refuses to be merged."""
    register_branch('test_bias')(Bias)
    model = plain().eval()
    pruner = attach(model, image, bypass='test_bias')
    mask_randomly(pruner)
    with torch.no_grad():
        masked = model(image)
        slim = narrow(model, pruner.plan())
        torch.testing.assert_close(slim(image), masked)
    assert slim.b.bypass.shift.shape == (8,)
    assert merge_bypasses(slim)['b'] == 'Bias cannot be merged'
