# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Code that relies on two numbers of channels being equal."""

import copy
import math

import pytest
import torch
from torch import nn

from mmlapp.core import analyse, attach, narrow
from mmlapp.core.analysis.counts import some_counts
from mmlapp.core.analysis.equal_widths import unequal_checks


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('width', [2, 3, 4, 5])
def test_small_groups_are_tried_apart(
    net, conv, image, agree_everywhere, width, turned
):
    """Fewer of one that is cut by the size of the other one are no image."""

    def forward(m, x):
        pair = m.a(x), m.b(x)
        y, z = reversed(pair) if turned else pair
        z = z.flatten()[: y.numel()].view(len(z), len(z[0]), 8, 8)
        return m.c(y) + m.d(z)

    model = net(
        forward,
        a=conv(3, width),
        b=conv(3, width),
        c=conv(width, 5),
        d=conv(width, 5),
    )
    agree_everywhere(model, image)


def test_nothing_more_is_tried_where_two_numbers_are(net, conv, image):
    """Of four channels three are left and two, of which code asks no sum."""
    model = net(
        lambda m, x: m.c(m.a(x)) + m.d(m.b(x)),
        a=conv(3, 4),
        b=conv(3, 4),
        c=conv(4, 5),
        d=conv(4, 5),
    ).eval()
    found = analyse(model, image)
    assert list(unequal_checks(found.trace, found.groups)) == []
    found.trace.elements_counted = True
    kept = [c.kept for c in unequal_checks(found.trace, found.groups)]
    assert kept == [(('a', 4),), (('b', 4),)]


def turned(y, width):
    """Rows in reverse, by an index for each of so many channels."""
    index = torch.arange(y.shape[1]).flip(0)[None, :, None]
    return y.gather(1, index.expand(len(y), -1, width))


RELYING = {
    'quotient': lambda y, z: y * (y.shape[-1] / z.shape[-1]),
    'power': lambda y, z: y * 2.0 ** (y.shape[-1] - z.shape[-1]),
    'common divisor': lambda y, z: (
        y * math.gcd(y.shape[-1], z.shape[-1]) / y.shape[-1]
    ),
    'lengths': lambda y, z: 2 * y if len(y[0, 0]) == len(z[0, 0]) else y,
    'tensors': lambda y, z: (
        2 * y if torch.tensor(y.shape[-1]) == torch.tensor(z.shape[-1]) else y
    ),
    'index': lambda y, z: turned(y, z.shape[-1]),
    'index of the other': lambda y, z: turned(z, y.shape[-1]),
}


@pytest.mark.parametrize('name', RELYING)
@pytest.mark.parametrize(('width', 'between'), [(12, 1), (16, 9), (64, 12)])
def test_code_that_relies_on_two_widths(name, width, between):
    """However many groups of this size lie between them."""
    model = Chain(width, between, RELYING[name]).double().eval()
    image = torch.rand(2, 6, 3, dtype=torch.float64)
    pruner = attach(model, image)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        mask = torch.rand(pruner.mask.numel(), generator=random) > 0.4
        pruner.set_mask(mask)
        slim = narrow(copy.deepcopy(model), pruner.plan())
        torch.testing.assert_close(slim(image), model(image))


class Chain(nn.Module):
    """Linear layers of one width, whose first and last meet."""

    def __init__(self, width, between, meet):
        super().__init__()
        self.meet = meet
        self.first = nn.Linear(3, width)
        self.between = nn.ModuleList(
            nn.Linear(width, width) for _ in range(between)
        )
        self.last = nn.Linear(width, width)
        self.head = nn.Linear(2, 5)

    def forward(self, x):
        z = y = self.first(x).relu()
        for layer in self.between:
            y = layer(y).relu()
        y = self.last(y).relu()
        met = self.meet(y, z)
        # Their sums, whatever there is of them: [batch, 2].
        pair = [t.square().sum((1, 2)) / 4 for t in (met, z)]
        return self.head(torch.stack(pair, -1))


def test_turns_tell_each_two_groups_apart(net):
    """Of 30 groups of 12, which keep 4 numbers in turn: 7, 5, 11, 3."""
    layers = {f'l{i:02}': nn.Linear(12, 12) for i in range(30)}

    def forward(m, x):
        x = m.first(x)
        for name in layers:
            x = getattr(m, name)(x)
        return m.head(x.reshape(-1, x.shape[1]))

    model = net(
        forward, first=nn.Linear(3, 12), **layers, head=nn.Linear(12, 2)
    ).eval()
    found = analyse(model, torch.rand(2, 3, dtype=torch.float64))
    names = [group.name for group in found.groups.prunable]
    some = dict(zip(names, some_counts(found.groups, ()), strict=True))
    turns = [some]
    turns += [
        dict(check.kept) for check in unequal_checks(found.trace, found.groups)
    ]
    # 4, 16 and 64 are told apart in one, two and three.
    assert len(turns) == 3
    kept = {tuple(turn[name] for turn in turns) for name in names}
    assert len(kept) == len(names)
    found.trace.measured_nodes = found.trace.measured_nodes[:0]
    assert list(unequal_checks(found.trace, found.groups)) == []
