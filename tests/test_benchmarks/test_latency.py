# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Everything but the times, which are made up or not looked at."""

import json
from pathlib import Path

import latency
import pytest
import torch
from latency_tables import made_up
from torch import nn

PAGE = Path(__file__).parents[2] / 'docs' / 'latency.md'


def build(size):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 8, 3, padding=1),
    )
    return latency.classifier('ResNet-18', lambda: model, size)


@pytest.fixture
def small(monkeypatch):
    """A network whose table follows its FLOPs; the peer only copies."""
    cases = {'ResNet-18': (build, 8, 0.5)}
    monkeypatch.setattr(latency, 'CASES', cases)
    monkeypatch.setattr(latency, 'TARGETS', (0.8, 0.5, 0.01))
    latency.networks_at.cache_clear()

    def peer(network, images, target, rounded):
        if rounded:
            raise RuntimeError('it cannot\nfollow this')
        return network

    def table(options, subject, setting):
        return made_up(subject.model, subject.images, divisor=16)

    monkeypatch.setattr(latency, 'peer', peer)
    monkeypatch.setattr(latency.Options, 'table', table)
    yield
    latency.networks_at.cache_clear()


FAST = [
    *('--networks', 'ResNet-18', '--backends', 'torch', '--threads', '1'),
    *('--rounds', '1', '--points', '2', '--table-rounds', '1'),
]


def test_a_call_measures_what_is_missing(small, tmp_path, capsys, monkeypatch):
    path = tmp_path / 'latency.json'
    latency.main([*FAST, '--json', str(path)])
    data = json.loads(path.read_text())
    speed, budget = data['results'].values()
    assert list(data['results']) == [
        'speed, ResNet-18, 1 threads',
        'budget, torch, 1 threads',
    ]
    assert [row['name'] for row in speed] == [
        'dense',
        'mmlapp',
        'Torch-Pruning',
        'Torch-Pruning, multiples of 16',
    ]
    assert [row['status'] for row in speed] == [
        *['ok'] * 3,
        'RuntimeError: it cannot follow this',
    ]
    assert 0.3 < speed[1]['share'] <= 0.5
    assert [row['name'] for row in budget] == [
        'dense',
        *map(str, latency.TARGETS),
    ]
    for row, target in zip(budget[1:-1], latency.TARGETS, strict=False):
        assert row['predicted'] == pytest.approx(row['flops'])
        assert row['predicted'] <= target
    assert 'reachable minimum' in budget[-1]['status']
    out = capsys.readouterr().out
    assert '| ResNet-18 | 1 | torch | mmlapp |' in out

    def again(*args):
        raise AssertionError('it is there')

    monkeypatch.setattr(latency, 'speed', again)
    monkeypatch.setattr(latency, 'budget', again)
    latency.main([*FAST, '--json', str(path)])
    assert json.loads(path.read_text()) == data


def test_results_of_another_device(small, tmp_path):
    path = tmp_path / 'latency.json'
    data = {'machine': {'device': 'another', 'torch': '1.0'}, 'results': {}}
    path.write_text(json.dumps(data))
    with pytest.raises(SystemExit, match=r'measured elsewhere.*another'):
        latency.main([*FAST, '--json', str(path)])
    assert json.loads(path.read_text()) == data


def test_one_clock_in_a_file(small, tmp_path):
    path = tmp_path / 'latency.json'
    latency.main([*FAST, '--processor-time', '--json', str(path)])
    assert json.loads(path.read_text())['machine']['clock'] == 'processor'
    with pytest.raises(SystemExit, match=r'clock processor, not wall'):
        latency.main([*FAST, '--json', str(path)])
    with pytest.raises(SystemExit):
        latency.main(['--processor-time', '--threads', '2'])


def row(name, **changes):
    values = dict(
        name=name,
        backend='torch',
        status='ok',
        share=0.444,
        median=0.010,
        p90=0.011,
        speed_up=2.0,
        factor=0.888,
    )
    return {**values, **changes}


@pytest.fixture
def results(tmp_path):
    path = tmp_path / 'latency.json'
    noisy = dict(speed_up=None, factor=None)
    failed = dict(status='no', median=None, p90=None, **noisy)
    data = {
        'machine': {'device': 'a CPU', 'torch': '2.10', 'clock': 'wall'},
        'results': {
            'speed, ResNet-18, 2 threads': [
                row('mmlapp'),
                row('a', **noisy),
                row('b', **failed),
            ],
            'budget, torch, 1 threads': [
                row('dense', predicted=1.0, flops=1.0),
                row('0.6', predicted=0.5, flops=0.55, speed_up=1.6),
                row('0.5', predicted=0.5, flops=0.45, **noisy),
                row('0.4', predicted=None, flops=None, **failed),
            ],
        },
    }
    path.write_text(json.dumps(data))
    return path


def test_a_report(results):
    lines = latency.report(results).splitlines()
    assert lines[0] == 'Machine: wall time, a CPU, torch 2.10.'
    assert lines[4:7] == [
        '| ResNet-18 | 2 | torch | mmlapp | 44.4% | 10.0 | 11.0 | 2.00 '
        '| 0.89 |',
        '| ResNet-18 | 2 | torch | a | 44.4% | 10.0 | 11.0 | too noisy '
        '| too noisy |',
        '| ResNet-18 | 2 | torch | b |  |  |  | failed | failed |',
    ]
    # 1 / 1.6 is 62.5 %, a quarter more than predicted.
    assert lines[-3:] == [
        '| torch | 1 | 60% | 50.0% | 62.5% | +25.0% | 55.0% |',
        '| torch | 1 | 50% | 50.0% | too noisy | too noisy | 45.0% |',
        '| torch | 1 | 40% |  | unreachable | unreachable |  |',
    ]


def test_a_report_goes_between_the_marks_of_a_page(results, tmp_path):
    page = tmp_path / 'page.md'
    begin, end = latency.MARKS
    page.write_text(f'a\n\n{begin}\nold\n{end}\n\nb\n')
    latency.main(['--json', str(results), '--report', str(page)])
    text = page.read_text()
    assert text.startswith('a\n\n<!--')
    assert text.endswith('-->\n\nb\n')
    assert latency.measured_part(text) == latency.report(results)
    page.write_text('no marks')
    with pytest.raises(SystemExit, match='it has no <!--'):
        latency.main(['--json', str(results), '--report', str(page)])
    assert page.read_text() == 'no marks'


def test_docs_have_the_results():
    page = PAGE.read_text('utf-8')
    assert latency.measured_part(page) == latency.report(latency.RESULTS)


def test_the_peer_is_within_the_target():
    pytest.importorskip('torch_pruning', reason='the peer is not installed')
    subject = build(8)
    for rounded in (False, True):
        found = latency.peer(subject.model, subject.images, 0.6, rounded)
        share = latency.flops(found, subject.images) / latency.flops(
            subject.model, subject.images
        )
        assert 0.3 < share <= 0.6
        assert found[4].out_channels == 8


def test_outputs_stay(small):
    subject = build(8)
    assert latency.last_layers(subject.model, subject.images) == ['4']
