# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import PruningWarning, analyse, merge_bypasses
from mmlapp.core.trace.own_calls import ELSEWHERE, NEVER, OTHERWISE

KINDS = ['depthwise', 'pointwise', 'grouped']
UNIT_NAMES = ['filters', 'channels']


def test_layers_without_a_bypass_are_told(net, conv, image):
    model = net(
        lambda m, x: m.d(m.c(m.b(m.a(x)))),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 8, groups=4),
        d=conv(8, 5, 1),
    )
    analysis = analyse(model, lambda: model(image), bypass='pointwise')
    assert set(analysis.branches) >= {'b'}
    assert analysis.without['c'] == 'it is a grouped convolution'


@pytest.mark.parametrize('unit', UNIT_NAMES)
def test_nothing_runs_beside_what_cannot_learn(net, conv, image, agree, unit):
    """A branch would stay as it began, which is at random."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x).relu()).relu()),
        a=conv(3, 8).requires_grad_(False),
        b=conv(8, 8),
        c=conv(8, 5),
    )
    analysis = analyse(
        model, lambda: model(image), bypass='pointwise', unit=unit
    )
    assert analysis.without['a'].startswith('its weight is frozen')
    assert 'b' in analysis.branches
    agree(model, image, bypass='pointwise', unit=unit)


@pytest.mark.parametrize('unit', UNIT_NAMES)
def test_a_bypass_for_nobody_is_told(net, conv, image, unit):
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8, 1), b=conv(8, 5, 1))
    with pytest.warns(
        PruningWarning, match=r"'pointwise' was added to no layer.*would cost"
    ):
        analyse(
            model,
            lambda: model(image),
            bypass='pointwise',
            unit=unit,
        )


@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('kind', KINDS)
def test_a_layer_that_runs_twice(net, conv, image, agree, kind, unit):
    model = net(
        lambda m, x: m.c(m.b(m.b(m.a(x)).relu()).relu()),
        a=conv(3, 8),
        b=conv(8, 8),
        c=conv(8, 5),
    )
    result = agree(model, image, bypass=kind, unit=unit)
    assert 'b' in result.plan.branches


@pytest.mark.parametrize('unit', UNIT_NAMES)
def test_layers_that_share_a_weight(net, conv, image, agree, unit):
    b, c = conv(8, 8), conv(8, 8)
    c.weight = b.weight
    model = net(
        lambda m, x: m.e(m.d(m.c(m.b(m.a(x)).relu()).relu())),
        a=conv(3, 8),
        b=b,
        c=c,
        d=conv(8, 8),
        e=conv(8, 5),
    )
    result = agree(model, image, bypass='depthwise', unit=unit)
    assert 'd' in result.plan.branches
    assert not {'b', 'c'} & set(result.plan.branches)


class Scaled(nn.Conv2d):
    """Equalised learning rate (arXiv 1710.10196)."""

    def forward(self, x):
        return self._conv_forward(x, self.weight * 0.1, self.bias)


AWAY = {
    'tied': (
        nn.Conv2d,
        lambda a, x: functional.conv_transpose2d(a(x), a.weight, padding=1),
        ELSEWHERE,
    ),
    'functional': (
        nn.Conv2d,
        lambda a, x: functional.conv2d(x, a.weight, padding=1),
        NEVER,
    ),
    'scaled': (Scaled, lambda a, x: a(x), OTHERWISE),
}


@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('name', AWAY)
def test_a_branch_is_where_the_trace_saw_its_layer(
    net, conv, image, agree, name, unit
):
    """No branch elsewhere; the others are merged with equal outputs."""
    kind, forward, reason = AWAY[name]
    model = net(
        lambda m, x: m.d(m.c(forward(m.a, m.b(x)))),
        b=conv(3, 8),
        a=kind(8, 8, 3, padding=1, bias=False),
        c=conv(8, 8),
        d=conv(8, 5),
    )
    arguments = {'bypass': 'depthwise', 'unit': unit}
    found = analyse(model.eval(), lambda: model(image), **arguments)
    assert found.without['a'] == reason
    result = agree(model, image, **arguments)
    with torch.no_grad():
        narrowed = result.slim(image)
        merge_bypasses(result.slim)
        torch.testing.assert_close(result.slim(image), narrowed)
