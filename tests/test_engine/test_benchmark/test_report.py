# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import io
import json

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.benchmark import report
from mmlapp.engine.benchmark.networks import Prediction
from mmlapp.engine.benchmark.report import (
    COLUMNS,
    cells,
    draw,
    failures,
    layers_table,
    prediction_text,
    rows_table,
    to_dict,
)
from mmlapp.engine.latency.setting import Setting
from mmlapp.engine.terminal import console


def shown(table):
    out = io.StringIO()
    console(out).print(table)
    return out.getvalue()


def test_a_row(row):
    found = row(agreement=0.75, metrics={'top1': 91.5, 'top5': 99.0})
    assert dict(zip(COLUMNS, cells(found), strict=True)) == {
        'MB': '1.5',
        'parameters': '2M',
        'GMACs': '0.5',
        'left': '50.0%',
        'error': '1.0e-06',
        'same class': '75.0%',
        'accuracy': '91.5',
        'ms': '10',
        'p90': '11',
        'images/s': '100.0',
        'speed-up': '1.90',
        'factor': '0.95',
    }


def test_no_claim_where_times_are_noisy(row):
    noisy = row(speed_up=None, factor=None)
    assert cells(noisy)[-2:] == ['too noisy', 'too noisy']
    assert 'too noisy' in shown(rows_table([noisy]))


def test_what_failed(row):
    nothing = dict.fromkeys(
        ['error', 'median', 'p90', 'images_per_second', 'speed_up', 'factor']
    )
    failed = row(status='RuntimeError: no', **nothing)
    assert cells(failed)[-2:] == ['failed', 'failed']
    assert failures([row(), failed]) == [
        'slim on torch failed: RuntimeError: no'
    ]


def test_predicted_against_measured(row):
    setting = Setting()
    prediction = Prediction(0.6, setting.described())
    rows = [row(speed_up=1.6)]
    text = 'latency: predicted 60.0% of the dense network'
    assert (
        prediction_text(prediction, rows, setting) == f'{text}, measured 62.5%'
    )
    noisy = [row(speed_up=None)]
    assert prediction_text(prediction, noisy, setting).endswith('too noisy')
    assert prediction_text(prediction, [], setting) == f'{text}; not measured'
    other = Prediction(0.6, Setting(threads=4).described())
    found = prediction_text(other, rows, setting)
    assert found.endswith('something else (threads 4, not 1)')


@pytest.mark.parametrize('name', ['slim', 'dense'])
def test_what_was_not_measured_says_why(row, name):
    """Also where only the network failed that it is compared with."""
    setting = Setting('openvino')
    prediction = Prediction(0.6, setting.described())
    there = row(backend='openvino', speed_up=None)
    none = row(name, 'openvino', speed_up=None, median=None, status='No such')
    others = [row('masked', status='wrong'), row(backend='torch')]
    assert prediction_text(prediction, [*others, none, there], setting) == (
        'latency: predicted 60.0% of the dense network; not measured: '
        f'{name} on openvino failed: No such'
    )


def test_json_has_everything(row):
    setting = Setting()
    prediction = Prediction(0.6, setting.described())
    layers = {'conv': {'dense': 0.2, 'slim': 0.1}}
    data = to_dict([row()], [setting], ['a note'], prediction, layers)
    assert json.loads(json.dumps(data)) == data
    assert data['settings'][0]['threads'] == 1
    assert data['rows'][0]['median'] == 0.010
    assert data['rows'][0]['noisy'] is False
    assert data['layers'] == layers


def test_layers(row):
    text = shown(
        layers_table(
            {'a': {'dense': 0.2, 'slim': 0.05}, 'b': {'dense': 0.001}}
        )
    )
    cells = [line.split('│') for line in text.splitlines() if '│ a' in line]
    assert [c.strip() for c in cells[0][1:-1]] == ['a', '200', '50', '0.25']


def test_a_picture(row, tmp_path):
    path = tmp_path / 'speed.png'
    draw([row('dense'), row()], path, 'here')
    assert path.read_bytes().startswith(b'\x89PNG')
    draw([row('dense'), row()], tmp_path / 'speed.svg', 'here')
    assert '<svg' in (tmp_path / 'speed.svg').read_text()


def test_a_picture_that_cannot_be_drawn(row, tmp_path, monkeypatch):
    with pytest.raises(PruningError, match=r'plot=.*speed\.doc'):
        draw([row()], tmp_path / 'speed.doc', 'here')
    monkeypatch.setattr(report, 'find_spec', lambda name: None)
    with pytest.raises(PruningError, match='pip install matplotlib'):
        draw([row()], tmp_path / 'speed.png', 'here')
    assert not list(tmp_path.iterdir())
