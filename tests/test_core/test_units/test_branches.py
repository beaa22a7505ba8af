# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.core import PruningWarning, analyse

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
