# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from mmlapp.core.cost.latency_table import TimedNetwork
from mmlapp.core.cost.whole_networks import between, knots, shares


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
