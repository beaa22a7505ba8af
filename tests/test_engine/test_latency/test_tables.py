# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import io
from dataclasses import replace

import pytest
from latency_tables import made_up

from mmlapp.core.cost.latency_table import TimedNetwork
from mmlapp.engine.latency.tables import (
    layers_table,
    networks_table,
    remarks,
)
from mmlapp.engine.terminal import console


@pytest.fixture
def table(network, images):
    networks = (
        TimedNetwork(1, 1, 0.010, 0.0101),
        TimedNetwork(0.5, 0.75, 0.007, 0.007),
    )
    return made_up(network, images, networks=networks)


def shown(table):
    out = io.StringIO()
    console(out).print(table)
    lines = out.getvalue().splitlines()
    rows = [line.strip('│').split('│') for line in lines if line[0] == '│']
    return [[cell.strip() for cell in row] for row in rows]


def test_layers(table):
    rows = shown(layers_table(table))
    # 8 x 8 positions, 8 x 3 x 3 x 3 weights, a nanosecond for each product.
    expected = f'{64 * 216 * 1e-6:.3g}'
    assert rows[0] == [
        '0',
        '1',
        '8x3x3x3',
        '1x3x8x8',
        '4',
        expected,
        expected,
    ]
    assert len(rows) == len(table.layers)


def test_networks_predicted_and_measured(table):
    """One network beside the dense one is predicted exactly."""
    assert shown(networks_table(table)) == [
        ['100.0%', '100.0%', '100.0%', '100.0%', '10', '10.1'],
        ['50.0%', '75.0%', '70.0%', '70.0%', '7', '7'],
    ]


def test_noise_is_told(table):
    (text,) = remarks(table)
    assert text.startswith('time of the dense network')
    noisy = tuple(
        replace(layer, p90=tuple(2 * t for t in layer.median))
        for layer in table.layers
    )
    texts = list(remarks(replace(table, layers=noisy)))
    assert len(texts) == 2
    assert texts[1].startswith('too noisy: ')
    assert 'times of layers' in texts[1]


def test_times_that_no_width_changes_are_told(table):
    dense, slim = table.networks
    networks = dense, replace(slim, median=dense.median, p90=dense.p90)
    _, text = remarks(replace(table, networks=networks))
    assert text.startswith('of no use: the narrow networks took as long')


def test_one_noisy_network_is_told(table):
    dense, slim = table.networks
    networks = dense, replace(slim, p90=2 * slim.median)
    _, text = remarks(replace(table, networks=networks))
    assert text.startswith('too noisy: 1 of 2 whole networks ')
