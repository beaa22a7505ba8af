# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math
import warnings

import pytest
import torch
from latency_tables import by_flops, made_up, with_latency

from mmlapp.core import PruningError, PruningWarning, attach, narrow
from mmlapp.core.cost.latency import REST
from mmlapp.core.cost.latency_table import TimedNetwork


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


def test_times_that_no_width_changes(model, images):
    """As noise makes them; it is no fault of the layers."""
    networks = TimedNetwork(1, 1, 1, 1), TimedNetwork(0.4, 0.6, 1.1, 1.1)
    table = made_up(model, images, networks=networks)
    pruner = with_latency(model, images, table)
    pruner.begin({'flops': 0.9}, 1)
    pruner.reset()
    with pytest.raises(PruningError, match='took as long as the dense one'):
        pruner.begin({'latency': 0.9}, 1)


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


def test_the_gradient_is_that_of_the_curve(model, images):
    networks = TimedNetwork(1, 1, 1, 1), TimedNetwork(0.5, 0.5, 0.8, 1)
    table = made_up(model, images, networks=networks, points=16)
    cost = with_latency(model, images, table).cost('latency')
    gate = torch.rand(8 + 12 + 16, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(cost, gate)
