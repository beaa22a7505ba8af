# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from latency_tables import made_up, with_latency
from torch import nn

from mmlapp.core import PruningError


def depthwise(net, conv):
    return net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 8),
        b=conv(8, 8, groups=8),
        c=conv(8, 5),
    ).float()


def test_depthwise_layers_shrink_by_their_outputs(net, conv, images):
    model = depthwise(net, conv)
    table = made_up(model, images)
    axes = {entry.names[0]: list(entry.axes) for entry in table.layers}
    assert axes == {'a': ['out'], 'b': ['out'], 'c': ['in']}
    pruner = with_latency(model, images, table)
    gate = torch.full_like(pruner.gate, 0.5)
    assert float(pruner.cost('latency').ratio(gate)) == pytest.approx(0.5)


def test_filters_shrink_by_outputs_alone(make, images):
    model = make()
    asked = dict(unit='filters', bypass='depthwise')
    pruner = with_latency(
        model, images, made_up(model, images, **asked), **asked
    )
    gate = torch.full_like(pruner.gate, 0.5)
    flops, latency = (
        float(pruner.cost(name).ratio(gate)) for name in ('flops', 'latency')
    )
    assert flops == pytest.approx(latency)


def test_a_table_of_channels_serves_filters(make, images):
    """Inputs were measured at several widths, and stay whole."""
    model = make()
    table = made_up(model, images, bypass='depthwise')
    pruner = with_latency(
        model, images, table, unit='filters', bypass='depthwise'
    )
    gate = torch.full_like(pruner.gate, 0.5)
    flops, latency = (
        float(pruner.cost(name).ratio(gate)) for name in ('flops', 'latency')
    )
    assert flops == pytest.approx(latency)


def test_a_table_of_another_model(make, images):
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    model = make()
    with pytest.raises(PruningError, match=r'another model.*tools/latency'):
        with_latency(model, images, made_up(other, images))
    assert not hasattr(model, 'pruner')


def test_a_table_of_a_deeper_model(net, conv, images):
    """All layers of a shallow one are in it; its times are another's."""

    def of_depth(count):
        layers = {f'l{i}': conv(3 if i == 0 else 8, 8) for i in range(count)}
        return net(
            lambda m, x: nn.Sequential(*m.children())(x), **layers
        ).float()

    deep, shallow = made_up(of_depth(4), images), of_depth(3)
    with pytest.raises(PruningError, match=r'another model: it has l3 with w'):
        with_latency(shallow, images, deep)
    assert not hasattr(shallow, 'pruner')


def test_a_table_of_more_calls_of_a_layer(net, conv, images):
    """As of a head that runs on more levels of a pyramid."""

    def of_levels(count):
        return net(
            lambda m, x: [m.b(m.a(x[..., i:])) for i in range(count)],
            a=conv(3, 8),
            b=conv(8, 4),
        ).float()

    table = made_up(of_levels(3), images)
    with pytest.raises(PruningError, match='another model: it has a with wei'):
        with_latency(of_levels(2), images, table)


@pytest.mark.parametrize(
    'bypass', ['depthwise', dict(type='grouped', norm=True)]
)
def test_a_table_with_branches_serves_a_run_without(make, images, bypass):
    table = made_up(make(), images, bypass=bypass)
    assert any('bypass' in entry.names[0] for entry in table.layers)
    pruner = with_latency(make(), images, table)
    assert pruner.ratios()['latency'] == pytest.approx(1)


def test_a_table_of_another_input_shape(make, images):
    table = made_up(make(), images)
    with pytest.raises(PruningError, match=r'input shape.*\[3, 16, 16\]'):
        with_latency(make(), torch.rand(1, 3, 16, 16), table)


def test_the_batch_may_differ(make, images):
    pruner = with_latency(make(), images[:1], made_up(make(), images))
    assert pruner.ratios()['latency'] == pytest.approx(1)


def test_a_scope_in_which_more_may_shrink(make, images):
    table = made_up(make(), images, ignore='a')
    with pytest.raises(PruningError, match=r"dimension 'out' alone.*scope"):
        with_latency(make(), images, table)


def test_stripes_are_refused(net, conv, image):
    """Their time is not that of a layer with fewer channels."""
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 5))
    table = made_up(model, image)
    with pytest.raises(PruningError, match="'latency': b loses stripes"):
        with_latency(model, image, table, unit='stripes')


def test_what_shrinks_beside_inputs_and_outputs_multiplies(net, conv, images):
    """Channels in the batch, and widths between: as FLOPs, in proportion."""

    def forward(m, x):
        y = m.a(x).relu()
        # Every channel is an image: [2 * 8, 1, h, w].
        z = m.b(y.flatten(0, 1)[:, None]).relu()
        return m.c(m.d(z).view(len(x), -1, *x.shape[2:]))

    model = net(
        forward,
        a=conv(3, 8),
        b=conv(1, 6),
        d=conv(6, 1),
        c=conv(8, 5),
    )
    images = images.double()
    table = made_up(model, images, points=8)
    found = {layer.names[0]: list(layer.axes) for layer in table.layers}
    assert (found['b'], found['d']) == (['out'], ['in'])
    pruner = with_latency(model, images, table)
    assert sorted(pruner.sizes) == [6, 8]
    gate = 0.4 + 0.6 * torch.rand(14, dtype=torch.float64)
    gate.requires_grad_()
    pair = [pruner.cost(name).ratio(gate) for name in ('flops', 'latency')]
    torch.testing.assert_close(*pair)
    first, second = (torch.autograd.grad(r, gate)[0] for r in pair)
    torch.testing.assert_close(first, second)
