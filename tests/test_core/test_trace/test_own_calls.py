# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which convolutions are exactly one call of their own weight."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from mmlapp.core.trace import trace
from mmlapp.core.trace.own_calls import ELSEWHERE, NEVER, OTHERWISE


class Scaled(nn.Conv2d):
    """Equalised learning rate (arXiv 1710.10196)."""

    def forward(self, x):
        return self._conv_forward(x, self.weight * 0.1, self.bias)


class Shifted(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


class Halved(nn.Conv2d):
    def forward(self, x):
        return super().forward(x / 2)


class Dilated(nn.Conv2d):
    def forward(self, x):
        return functional.conv2d(
            x, self.weight, self.bias, padding=2, dilation=2
        )


def wide(kind=nn.Conv2d, **arguments):
    return kind(8, 8, 3, **{'padding': 1, **arguments})


PLAIN = {
    'one call': lambda: (wide(), lambda a, x: a(x)),
    'by name': lambda: (wide(), lambda a, x: a(input=x)),
    'two calls': lambda: (wide(), lambda a, x: a(a(x).relu())),
    'reflection': lambda: (
        wide(padding_mode='reflect'),
        lambda a, x: a(x),
    ),
    'circular': lambda: (wide(padding_mode='circular'), lambda a, x: a(x)),
    'padding by name': lambda: (wide(padding='same'), lambda a, x: a(x)),
    'groups': lambda: (wide(groups=2), lambda a, x: a(x)),
    'transposed': lambda: (
        wide(nn.ConvTranspose2d, stride=2),
        lambda a, x: a(x),
    ),
    'lost output': lambda: (wide(), lambda a, x: (a(x), a(x))[1]),
}


@pytest.mark.parametrize('name', PLAIN)
def test_plain_calls(net, name):
    layer, forward = PLAIN[name]()
    model = net(lambda m, x: forward(m.a, x), a=layer)
    x = torch.rand(2, 8, 8, 8).double()
    assert trace(model, lambda: model(x)).irregular == {}


def transposed_weight(a, x):
    return functional.conv2d(a(x), a.weight.transpose(0, 1), padding=1)


IRREGULAR = {
    'functional': (wide, lambda a, x: functional.conv2d(x, a.weight), NEVER),
    'never': (wide, lambda a, x: x, NEVER),
    'tied': (wide, transposed_weight, ELSEWHERE),
    'measured': (wide, lambda a, x: a(x) / a.weight.norm(), ELSEWHERE),
    'bias': (wide, lambda a, x: a(x) - a.bias[:, None, None], ELSEWHERE),
    'scaled weight': (lambda: wide(Scaled), lambda a, x: a(x), OTHERWISE),
    'shifted output': (lambda: wide(Shifted), lambda a, x: a(x), OTHERWISE),
    'halved input': (lambda: wide(Halved), lambda a, x: a(x), OTHERWISE),
    'other geometry': (lambda: wide(Dilated), lambda a, x: a(x), OTHERWISE),
    'computed weight': (
        lambda: parametrizations.spectral_norm(wide()),
        lambda a, x: a(x),
        OTHERWISE,
    ),
    'no batch': (wide, lambda a, x: a(x[0]), OTHERWISE),
    'output size': (
        lambda: wide(nn.ConvTranspose2d, stride=2),
        lambda a, x: a(x, [16, 16]),
        OTHERWISE,
    ),
}


@pytest.mark.parametrize('name', IRREGULAR)
def test_irregular_calls(net, name):
    build, forward, reason = IRREGULAR[name]
    model = net(lambda m, x: forward(m.a, x), a=build())
    x = torch.rand(2, 8, 8, 8).double()
    assert trace(model, lambda: model(x)).irregular == {'a': reason}


class Asking(nn.Conv2d):
    def forward(self, x):
        assert x.shape[1] == self.weight.shape[1]
        return super().forward(x)


MEASURES = {
    'by its own forward': (Asking, lambda a, x: a(x), set()),
    'something else': (
        nn.Conv2d,
        lambda a, x: a(x.to(a.weight.dtype, copy=a.weight.dim() > 4)),
        set(),
    ),
    'by others': (Asking, lambda a, x: a(x)[:, : len(a.bias)], {'a'}),
    'before it runs': (
        nn.Conv2d,
        lambda a, x: a(x.view(-1, a.weight.shape[1], 8, 8)),
        {'a'},
    ),
}


@pytest.mark.parametrize('name', MEASURES)
def test_who_asks_for_sizes(net, name):
    kind, forward, found = MEASURES[name]
    model = net(lambda m, x: forward(m.a, x), a=wide(kind))
    x = torch.rand(2, 8, 8, 8).double()
    record = trace(model, lambda: model(x))
    assert record.measured == found
    assert record.irregular == {}
