# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import analyse, attach, narrow
from mmlapp.core.trace.laid_out import REASON


class Kept(nn.Module):
    """Scales channels by what its first forward has laid out."""

    def __init__(self):
        super().__init__()
        self.start()

    def start(self):
        self.m = None

    def lay_out(self, x):
        self.m = x.new_full((x.shape[1], 1, 1), 0.5)

    def forward(self, x):
        if getattr(self, 'm', None) is None:
            self.lay_out(x)
        return x * self.m


class Buffer(Kept):
    def start(self):
        self.register_buffer('m', None, persistent=False)


class Saved(Kept):
    def start(self):
        self.register_buffer('m', None)


class Registered(Kept):
    def start(self):
        pass

    def lay_out(self, x):
        filled = x.new_full((x.shape[1], 1, 1), 0.5)
        self.register_buffer('m', filled, persistent=False)


class Empty(Kept):
    """A placeholder of another shape."""

    def start(self):
        self.register_buffer('m', torch.zeros(0), persistent=False)

    def forward(self, x):
        if not self.m.numel():
            self.lay_out(x)
        return x * self.m


class Two(Kept):
    """In a dictionary; the first one that is too wide ends the forward."""

    def start(self):
        self.kept = {}

    def forward(self, x):
        if not self.kept:
            full = x.new_full((x.shape[1], 1, 1), 0.5)
            self.kept.update(a=full, b=[full + 1])
        return x * self.kept['a'] * self.kept['b'][0]


class Mean(Kept):
    """A mean of what it has seen."""

    def forward(self, x):
        seen = x.mean((0, 2, 3), keepdim=True)
        self.m = seen if self.m is None else 0.5 * (self.m + seen)
        return x - self.m


LAID_OUT = Kept, Buffer, Saved, Registered, Empty, Two, Mean


class Sized(Buffer):
    """Looks at what it has kept."""

    def forward(self, x):
        if self.m is None or self.m.shape[0] != x.shape[1]:
            self.lay_out(x)
        return x * self.m


class Noting(Buffer):
    """Notes down what it computes."""

    def forward(self, x):
        self.m = x
        self.seen = [x.mean((0, 2, 3))]
        return x * 0.5


class Followed(Buffer):
    """A buffer that was there, in whose place others are put."""

    def start(self):
        self.register_buffer('m', -torch.rand(1, 8, 1, 1))

    def forward(self, x):
        self.m = self.m.abs()
        return x - self.m


class Parameters(Kept):
    """Holds parameters beside their own places."""

    def start(self):
        self.weight = nn.Parameter(torch.rand(8, 1, 1))
        self.held = {}

    def forward(self, x):
        self.held['w'] = self.weight
        return x * self.held['w']


FREE = Sized, Noting, Followed, Parameters


def build(net, conv, kind):
    return net(
        lambda m, x: m.c(m.kept(m.a(x)).relu() + m.b(x)),
        a=conv(3, 8),
        b=conv(3, 8),
        kept=kind(),
        c=conv(8, 5),
    )


@pytest.mark.parametrize('kind', LAID_OUT)
def test_what_the_first_forward_lays_out_stays(net, conv, image, kind):
    model = build(net, conv, kind)
    state = dict(vars(model.kept))
    buffers = dict(model.kept._buffers)
    frozen = {g.name: g.frozen for g in analyse(model, image).groups.items}
    assert frozen['a'] == REASON
    # As it was: neither what was laid out is left, nor anything wider.
    assert state == vars(model.kept)
    assert buffers.keys() == model.kept._buffers.keys()
    assert all(model.kept._buffers[k] is v for k, v in buffers.items())


@pytest.mark.parametrize('kind', FREE)
def test_what_no_further_forward_needs_is_free(net, conv, image, kind):
    model = build(net, conv, kind)
    pruner = attach(model, image)
    assert [group.size for group in pruner.groups] == [8]
    pruner.begin({'flops': 0.5}, 1)
    model(image).sum().backward()
    pruner.step()
    slim = narrow(model, pruner.plan())
    assert slim(image).shape == (2, 5, 8, 8)
    assert slim.a.out_channels < 8


def test_all_that_is_laid_out_is_found(net, conv, image):
    """The first one that does not fit ends the forward."""
    model = net(
        lambda m, x: m.e(m.d(m.c(m.b(m.a(x))))),
        a=conv(3, 8),
        b=Kept(),
        c=conv(8, 6),
        d=Buffer(),
        e=conv(6, 5),
    )
    frozen = {g.name: g.frozen for g in analyse(model, image).groups.items}
    assert frozen['a'] == frozen['c'] == REASON


def test_nothing_runs_again_where_nothing_was_kept(net, conv, image):
    """Nor is the network run more often for a plain one."""
    model = build(net, conv, nn.Identity)
    calls = []
    model.a.register_forward_hook(lambda *_: calls.append(0))
    analyse(model, image)
    plain = len(calls)
    model = build(net, conv, Parameters)
    model.a.register_forward_hook(lambda *_: calls.append(0))
    analyse(model, image)
    assert len(calls) == 2 * plain
