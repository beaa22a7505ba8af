# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import pytest
from latency_tables import made_up

from mmlapp.core import PruningError
from mmlapp.core.cost.latency_table import LatencyTable, full_width, key_of


@pytest.fixture
def table(model, images):
    return made_up(model, images)


def test_a_file_holds_the_table(table, tmp_path):
    path = tmp_path / 'table.json'
    table.save(path)
    read = LatencyTable.load(path)
    assert read.to_dict() == table.to_dict()
    assert LatencyTable.from_dict(read.to_dict()) == read


def first_axes(data):
    """Widths of the first layer that has both axes."""
    return next(e['axes'] for e in data['layers'] if len(e['axes']) == 2)


def reverse(data):
    first_axes(data)['in'].reverse()


def wider(data):
    first_axes(data)['out'][-1] += 1


def coarse(data):
    """Half of the widths go, with their times."""
    entry = next(e for e in data['layers'] if list(e['axes']) == ['out'])
    full = entry['axes']['out'][-1]
    entry['axes']['out'] = [1, full]
    entry['median'] = entry['p90'] = [1.0, 2.0]


DAMAGES = {
    'no layers': (lambda d: d.update(layers=[]), 'layers.* is empty'),
    'no networks': (lambda d: d.pop('networks'), 'no latency table'),
    'empty networks': (lambda d: d.update(networks=[]), 'is empty'),
    'version': (lambda d: d.update(version=7), 'version 7'),
    'unknown name': (lambda d: d.update(more=1), "'more'"),
    'divisor': (lambda d: d.update(divisor=0), 'divisor.*is 0'),
    'time': (lambda d: d['layers'][0].update(median=[0.0]), 'above 0'),
    'text': (lambda d: d['layers'][0].update(median='fast'), 'a list'),
    'too few': (lambda d: d['layers'][0]['p90'].pop(), r'3 times for 4'),
    'order': (reverse, 'not in order'),
    'width': (wider, 'not in order up to'),
    'coarse': (coarse, r'too coarse, \[1, 8\]'),
    'dense': (lambda d: d['networks'][0].update(layers=0.5), 'the dense one'),
    'weight': (lambda d: d['layers'][0].update(weight=[3]), 'a weight of'),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_named(table, name, tmp_path):
    data = table.to_dict()
    damage, text = DAMAGES[name]
    damage(data)
    path = tmp_path / 'table.json'
    path.write_text(json.dumps(data))
    with pytest.raises(PruningError, match=text) as error:
        LatencyTable.load(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_a_truncated_file(table, tmp_path):
    path = tmp_path / 'table.json'
    table.save(path)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(PruningError, match=r'table=.*no complete JSON'):
        LatencyTable.load(path)


@pytest.mark.parametrize('content', [b'', b'[1]', b'\xff\xfe', b'{"a": NaN}'])
def test_other_files(content, tmp_path):
    path = tmp_path / 'table.json'
    path.write_bytes(content)
    with pytest.raises(PruningError, match=r'table='):
        LatencyTable.load(path)


def test_no_file(tmp_path):
    with pytest.raises(PruningError, match=r'cannot be read.*latency_table'):
        LatencyTable.load(tmp_path / 'none.json')
    with pytest.raises(PruningError, match='cannot be read'):
        LatencyTable.load(tmp_path)


def test_a_divisor_allows_gaps_of_its_size(table):
    """Of eight channels in multiples of eight, there is one width."""
    data = table.to_dict()
    coarse(data)
    entry = next(e for e in data['layers'] if list(e['axes']) == ['out'])
    entry['axes']['out'] = [8]
    entry['median'] = entry['p90'] = [2.0]
    with pytest.raises(PruningError, match='too coarse'):
        LatencyTable.from_dict(data)
    LatencyTable.from_dict({**data, 'divisor': 8})


def test_calls_are_told_apart_but_for_the_batch():
    def key(inputs=(2, 8, 5, 5), weight=(4, 8, 3, 3), stride=(1, 1), op='c'):
        return key_of(op, inputs, weight, {'stride': stride})

    assert key() == key(inputs=(1, 8, 5, 5)) == key(stride=[1, 1])
    others = [
        key(inputs=(2, 8, 5, 6)),
        key(weight=(4, 8, 1, 1)),
        key(stride=(2, 2)),
        key(op='d'),
    ]
    assert len({key(), *others}) == 5


def test_the_batch_of_a_product_of_activations_does_not_count():
    """Heads are in the batch of both factors."""

    def key(batch, op='product'):
        return key_of(op, (batch, 4, 8), (batch, 8, 4), {})

    assert key(2) == key(6)
    # What is no product has channels there.
    assert key(2, 'convolution') != key(6, 'convolution')


@pytest.mark.parametrize(
    ('op', 'weight', 'transposed', 'widths'),
    [
        ('convolution', (4, 8, 3, 3), False, (8, 4)),
        ('convolution', (4, 8, 3, 3), True, (4, 8)),
        ('product', (4, 8), False, (4, 8)),
        ('product', (6, 4, 8), False, (4, 8)),
    ],
)
def test_full_widths(op, weight, transposed, widths):
    found = [
        full_width(op, weight, transposed, axis) for axis in ('in', 'out')
    ]
    assert tuple(found) == widths


def test_tables_are_frozen(table):
    assert replace(table) == table
