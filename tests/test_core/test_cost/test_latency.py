# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math
import warnings

import pytest
import torch
from latency_tables import by_flops, made_up
from torch import nn

from mmlapp.core import PruningError, PruningWarning, attach, narrow
from mmlapp.core.cost.latency import REST, between, knots, shares
from mmlapp.core.cost.latency_table import TimedNetwork


def with_latency(model, images, table, **settings):
    costs = ['flops', 'parameters', dict(type='latency', table=table)]
    return attach(model, images, costs=costs, **settings)


def plan_at(model, images, table, target, **settings):
    """The plan of a method that learns nothing, from fixed scores."""
    pruner = with_latency(model, images, table, method='ranking', **settings)
    pruner.begin(target, 1)
    pruner.step()
    return pruner.plan()


@pytest.mark.parametrize('ratio', [0.8, 0.5, 0.3])
@pytest.mark.parametrize('divisor', [1, 4])
def test_a_table_in_proportion_to_flops_gives_their_plan(
    make, images, ratio, divisor
):
    plans = []
    for name in ('flops', 'latency'):
        torch.manual_seed(0)
        model = make()
        # A width of one channel too: the search looks there.
        table = made_up(model, images, points=16)
        target = {name: ratio}
        plans.append(plan_at(model, images, table, target, divisor=divisor))
    assert plans[0].groups == plans[1].groups
    assert not all(kept.whole for kept in plans[0].groups.values())


def test_such_a_table_has_their_ratios_and_gradients(make, images):
    model = make()
    pruner = with_latency(model, images, made_up(model, images))
    flops, latency = pruner.cost('flops'), pruner.cost('latency')
    gate = torch.rand(len(pruner.gate), dtype=torch.float64)
    # Between the least width of the table and the full one.
    gate = (0.3 + 0.7 * gate).requires_grad_()
    found = [cost.ratio(gate) for cost in (flops, latency)]
    torch.testing.assert_close(*found)
    first, second = (torch.autograd.grad(r, gate)[0] for r in found)
    torch.testing.assert_close(first, second)


def test_dense_is_the_measured_time(model, images):
    networks = TimedNetwork(1, 1, 0.25, 0.3), TimedNetwork(0.5, 0.5, 0.2, 0.3)
    table = made_up(model, images, networks=networks)
    pruner = with_latency(model, images, table)
    cost = pruner.cost('latency')
    assert cost.dense == 0.25
    assert float(cost(torch.ones_like(pruner.gate))) == pytest.approx(0.25)


def test_a_falling_grid_leaves_the_dense_network_at_one(make, images):
    """The full width may be faster than a smaller one."""
    model = make()
    table = made_up(
        model, images, lambda call, shares: 2 - min(shares.values(), default=1)
    )
    pruner = with_latency(model, images, table)
    ones = torch.ones_like(pruner.gate)
    assert float(pruner.cost('latency').ratio(ones)) == pytest.approx(1)


def test_both_targets_hold(make, images):
    """Fixed times beside those in proportion: the two costs differ."""

    def formula(call, shares):
        return 1e-4 + by_flops(call, shares)

    model = make()
    table = made_up(model, images, formula)
    target = {'flops': 0.5, 'latency': 0.9}
    plan = plan_at(model, images, table, target)
    left = {n: c['pruned'] / c['dense'] for n, c in plan.costs.items()}
    assert left['flops'] <= 0.5
    assert left['latency'] <= 0.9
    narrow(model, plan)


def test_the_budget_is_exact_on_steps(make, images):
    """Times that grow at every fourth part of a width, and nowhere else."""

    def formula(call, shares):
        scale = math.prod(math.ceil(4 * s - 1e-9) / 4 for s in shares.values())
        return by_flops(call, {}) * scale

    model = make()
    table = made_up(model, images, formula, points=8)
    pruner = with_latency(model, images, table, method='ranking')
    pruner.begin({'latency': 0.5}, 1)
    pruner.step()
    used = pruner.ratios()['latency']
    assert 0.45 < used <= 0.5


def test_an_unreachable_target_tells_the_least(model, images):
    table = made_up(model, images, lambda call, shares: 1e-3)
    pruner = with_latency(model, images, table)
    text = r'target latency=0\.5 .*reachable minimum of 1\.0000'
    with pytest.raises(PruningError, match=text):
        pruner.begin({'latency': 0.5}, 1)


def test_layers_sum_up(model, images):
    networks = TimedNetwork(1, 1, 1, 1), TimedNetwork(0.4, 0.6, 0.56, 1)
    table = made_up(model, images, networks=networks)
    pruner = with_latency(model, images, table)
    gate = torch.rand(len(pruner.gate))
    found = pruner.cost('latency').by_layer(gate)
    total = float(pruner.cost('latency')(gate))
    assert sum(found.values()) == pytest.approx(total)
    assert found[REST] > 0


def test_layers_and_the_rest_are_scaled_alike(model, images):
    """What g makes of the sum of parts it makes of each part."""
    rows = [(1, 1, 2), (0.6, 0.8, 1.9), (0.3, 0.5, 0.5)]
    networks = tuple(TimedNetwork(a, b, t, t) for a, b, t in rows)
    table = made_up(model, images, networks=networks)
    cost = with_latency(model, images, table).cost('latency')
    gate = torch.full((cost.elements.group.numel(),), 0.7)
    by_layers, by_elements, constant = cost.shares
    layers = by_layers * float(cost.layers_ratio(gate))
    parts = layers + by_elements * float(cost.elements.ratio(gate)) + constant
    found = cost.by_layer(gate)
    total, rest = float(cost(gate)), found.pop(REST)
    assert total != pytest.approx(2 * parts, rel=0.05)
    assert sum(found.values()) == pytest.approx(total * layers / parts)
    assert rest == pytest.approx(total * (1 - layers / parts))


def test_everything_else_follows_elements_and_a_constant(model, images):
    """Closed form: 0.5 of the layers, 0.3 of the elements, 0.2 constant."""
    rows = [(1, 1), (0.5, 0.9), (0.4, 0.2), (0.3, 0.6)]
    networks = tuple(
        TimedNetwork(a, b, 0.5 * a + 0.3 * b + 0.2, 1) for a, b in rows
    )
    table = made_up(model, images, networks=networks)
    pruner = with_latency(model, images, table)
    gate = torch.full_like(pruner.gate, 0.5)
    flops = float(pruner.cost('flops').ratio(gate))
    # The four convolutions put out 8, 12, 16 and 5 maps of equal size; the
    # last five are never removed.
    elements = (0.5 * (8 + 12 + 16) + 5) / 41
    expected = 0.5 * flops + 0.3 * elements + 0.2
    assert float(pruner.cost('latency')(gate)) == pytest.approx(expected)


def test_shares_are_found_exactly_where_networks_tell_them():
    rows = [(1, 1), (0.5, 0.9), (0.4, 0.2), (0.3, 0.6)]
    networks = [
        TimedNetwork(a, b, 3 * (0.5 * a + 0.3 * b + 0.2), 1) for a, b in rows
    ]
    assert shares(networks) == pytest.approx((0.5, 0.3, 0.2))


@pytest.mark.parametrize('seed', range(20))
def test_no_other_shares_fit_better(seed):
    torch.manual_seed(seed)
    networks = [TimedNetwork(1, 1, 1, 1)]
    for layers, elements, time in torch.rand(4, 3).tolist():
        networks.append(TimedNetwork(layers, elements, time, time))

    def error(s, e, c):
        return sum(
            (s * n.layers + e * n.elements + c - n.median) ** 2
            for n in networks
        )

    found = shares(networks)
    assert min(found) >= 0
    assert sum(found) == pytest.approx(1)
    steps = range(21)
    least = min(
        error(i / 20, j / 20, 1 - i / 20 - j / 20)
        for i in steps
        for j in steps
        if i + j <= 20
    )
    assert error(*found) <= least + 1e-9


def test_one_network_gives_all_to_the_layers():
    assert shares([TimedNetwork(1, 1, 5, 5)]) == (1, 0, 0)


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


@pytest.mark.parametrize('bypass', ['depthwise', 'pointwise'])
def test_branches_are_counted(make, images, bypass):
    """In proportion to FLOPs here, so that both costs agree."""
    model = make()
    table = made_up(model, images, bypass=bypass)
    pruner = with_latency(model, images, table, bypass=bypass)
    gate = torch.where(torch.rand(len(pruner.gate)) > 0.6, 1.0, 0.5)
    flops, latency = (
        float(pruner.cost(name).ratio(gate)) for name in ('flops', 'latency')
    )
    assert flops == pytest.approx(latency)
    # All of it, branches too, is more than the dense network.
    ones = torch.ones_like(gate)
    assert float(pruner.cost('latency').ratio(ones)) > 1


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


@pytest.mark.parametrize('table', [3, None, ['table.json']])
def test_what_is_no_table(model, images, table):
    with pytest.raises(PruningError, match=r'table=.*expected the path'):
        with_latency(model, images, table)


def test_no_table_at_all(model, images):
    with pytest.raises(PruningError, match=r"cost='latency'.*'table'"):
        attach(model, images, costs=['latency'])


def test_widths_that_nobody_measured_are_told(make, images):
    table = made_up(make(), images, divisor=4)
    with pytest.warns(PruningWarning, match=r'divisor=2: .*Set divisor=4'):
        with_latency(make(), images, table, divisor=2)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with_latency(make(), images, table, divisor=8)


def test_a_run_saves_and_resumes(make, images):
    """Costs have no state: a table is read again."""
    model, other = make(), make()
    table = made_up(model, images)
    for each in (model, other):
        with_latency(each, images, table)
    model.pruner.begin({'latency': 0.5}, 3)
    model.pruner.step()
    other.load_state_dict(model.state_dict())
    assert other.pruner.ratios() == model.pruner.ratios()
    assert not any('grid' in key for key in model.state_dict())


def test_stripes_are_refused(net, conv, image):
    """Their time is not that of a layer with fewer channels."""
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 5))
    table = made_up(model, image)
    with pytest.raises(PruningError, match="'latency': b loses stripes"):
        with_latency(model, image, table, unit='stripes')


def test_measured_networks_are_predicted_exactly():
    """A curve that no sum of parts has."""
    networks = [
        TimedNetwork(share, share**2, 2 * math.sin(share * math.pi / 2), 1)
        for share in (1, 0.75, 0.5, 0.25)
    ]
    places, times = knots(networks)
    part = shares(networks)
    for one in networks:
        place = part[0] * one.layers + part[1] * one.elements + part[2]
        found = between(torch.tensor(place).double(), places, times)
        assert 2 * float(found) == pytest.approx(one.median)


def test_between_known_networks_it_is_a_line():
    places, values = torch.tensor([[0, 0.5, 1], [0, 0.8, 1]]).double()
    found = [
        float(between(torch.tensor(x), places, values))
        for x in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    ]
    # Branches make it larger than the dense network.
    assert found == pytest.approx([0, 0.4, 0.8, 0.9, 1, 1.2])


@pytest.mark.parametrize('measured', [0.5, 1.0])
def test_what_branches_add_takes_time_in_proportion(measured):
    """However steep or flat the way from a smaller network was."""
    rows = [(1, 1), (0.9, measured), (0.5, 0.4)]
    places, times = knots([TimedNetwork(a, a, t, t) for a, t in rows])
    value = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    found = between(value, places, times)
    found.backward()
    assert float(found.detach()) == pytest.approx(1.3)
    assert float(value.grad) == pytest.approx(1)
    # At the dense network itself what counts is what is removed.
    whole = torch.ones((), dtype=torch.float64, requires_grad=True)
    between(whole, places, times).backward()
    slope = (1 - times[-3]) / (1 - places[-3])
    assert float(whole.grad) == pytest.approx(float(slope))
    assert not 0.5 < float(slope) < 2


def test_a_curve_never_falls_either():
    """The middle network was slower than a larger one; the last too."""
    rows = [(1, 1), (0.75, 0.6), (0.5, 0.7), (0.25, 1.3)]
    places, times = knots([TimedNetwork(a, a, b, 1) for a, b in rows])
    assert (times.diff() >= 0).all()
    assert (times[0], times[-2], times[-1]) == (0, 1, 2)
    assert (places.diff() > 0).all()


def test_networks_as_large_as_the_dense_one_say_nothing():
    networks = [TimedNetwork(1, 1, 1, 1)] * 2
    places, times = knots([*networks, TimedNetwork(1, 1, 0.9, 1)])
    assert (places.tolist(), times.tolist()) == ([0, 1, 2], [0, 1, 2])


def test_the_gradient_is_that_of_the_curve(model, images):
    networks = TimedNetwork(1, 1, 1, 1), TimedNetwork(0.5, 0.5, 0.8, 1)
    table = made_up(model, images, networks=networks, points=16)
    cost = with_latency(model, images, table).cost('latency')
    gate = torch.rand(8 + 12 + 16, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(cost, gate)
