# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Everything but times and accuracies, which are not looked at."""

import json
from pathlib import Path

import equal_latency
import pytest
from equal_latency import (
    ATTEMPTS,
    NEAR,
    as_fast,
    between,
    marks_of,
    report,
    times_file,
)
from latency import measured_part
from latency_tables import made_up

PAGE = Path(__file__).parents[2] / 'docs' / 'latency.md'


@pytest.mark.parametrize(
    ('depth', 'streams'), [(8, ()), (8, ('--keep-streams',)), (18, ())]
)
def test_rows_are_trained_and_measured_once(
    noise, tmp_path, monkeypatch, capsys, depth, streams
):
    """By a table in which time follows FLOPs both budgets are the same."""

    def table(asked, path):
        return made_up(
            asked.network().eval(), equal_latency.EXAMPLE, divisor=8
        )

    monkeypatch.setattr(equal_latency, 'measured_table', table)
    out = tmp_path / 'a.json'
    argv = [
        *(str(noise), '--out', str(out), '--seeds', '1', '--width', '16'),
        *('--epochs', '2', '--batch', '32', '--rounds', '1'),
        *('--phase', '0.5', '--target', '0.7', *streams),
        *('--depth', str(depth)),
    ]
    with pytest.raises(SystemExit, match=r'--rows flops: .*seed 1\. Run'):
        equal_latency.main([*argv, '--rows', 'flops'])
    equal_latency.main([*argv, '--rows', 'flops', 'latency'])
    latency, flops = json.loads(out.read_text())['results']
    assert [latency['row'], flops['row']] == ['latency', 'flops']
    for result in (latency, flops):
        assert result['predicted'] == pytest.approx(result['flops'])
        assert 0.4 < result['predicted'] <= 0.7
        assert 0 <= result['accuracy'] <= 100
        # The stem begins the stream of the first stage.
        assert ('backbone.conv1' in result['widths']) is not bool(streams)
    assert flops['predicted'] == pytest.approx(latency['predicted'], rel=NEAR)
    rows = json.loads(times_file(out).read_text())['rows']
    assert list(rows) == ['dense', 'latency, seed 1', 'flops, seed 1']
    for result in (latency, flops):
        share = rows[equal_latency.key_of(result)]['share']
        assert share == pytest.approx(result['flops'], abs=1e-3)
    assert '| latency | ' in capsys.readouterr().out

    def again(*args):
        raise AssertionError('it is there')

    monkeypatch.setattr(equal_latency, 'run', again)
    monkeypatch.setattr(equal_latency, 'times_of', again)
    equal_latency.main([*argv, '--rows', 'flops', 'latency'])


@pytest.mark.parametrize(
    'curve', [lambda f: f, lambda f: f**0.5, lambda f: 0.3 + 0.7 * f**3]
)
def test_flops_of_a_latency(curve):
    asked = []

    class Phase:
        def __init__(self, target):
            self.flops = target['flops']
            asked.append(self.flops)

        def prune(self):
            return {'latency': curve(self.flops), 'flops': self.flops}

    training, left = as_fast(Phase, 0.6)
    assert training.flops == left['flops'] == asked[-1]
    assert left['latency'] == pytest.approx(0.6, rel=NEAR)
    assert len(asked) <= ATTEMPTS


def test_the_nearest_is_kept_where_none_is_near():
    class Phase:
        def __init__(self, target):
            self.flops = target['flops']

        def prune(self):
            # Two networks, none of which takes 0.6.
            latency = 0.5 if self.flops < 0.62 else 0.64
            return {'latency': latency, 'flops': self.flops}

    training, left = as_fast(Phase, 0.6)
    assert left['latency'] == 0.64
    assert training.flops >= 0.62


def test_no_share_is_tried_twice():
    """What is removed depends on chance, too: here less FLOPs take longer."""
    asked = []
    found = iter([0.781, 0.636, 0.709, 0.55, 0.62, 0.57])

    class Phase:
        def __init__(self, target):
            asked.append(target['flops'])

        def prune(self):
            return {'latency': next(found)}

    _, left = as_fast(Phase, 0.6)
    assert left['latency'] == 0.62
    assert len(set(asked)) == ATTEMPTS


def test_a_line_through_two_points():
    assert between((0.4, 0.5), (0.8, 0.9), 0.7) == pytest.approx(0.6)


@pytest.fixture
def results(tmp_path):
    path = tmp_path / 'a.json'
    data = [
        dict(row=row, seed=seed, accuracy=accuracy, flops=0.5, predicted=0.6)
        for row, seed, accuracy in (
            ('flops', 0, 70.0),
            ('flops', 1, 71.0),
            ('latency', 0, 72.0),
            ('latency', 1, 72.0),
        )
    ]
    path.write_text(json.dumps({'results': data}))
    setting = dict(device='a CPU', versions={'torch': '2.10'})
    time = dict(median=1.0, p90=1.1, speed_up=2.0)
    rows = {
        'dense': {**time, 'speed_up': 1.0},
        'latency, seed 0': time,
        'latency, seed 1': {**time, 'speed_up': 1 / 0.6},
        'flops, seed 0': time,
        'flops, seed 1': dict(median=1.0, p90=1.5, speed_up=None),
    }
    times = dict(setting=setting, rows=rows)
    times_file(path).write_text(json.dumps(times))
    return path


def test_a_report(results):
    lines = report(results).splitlines()
    assert lines[0] == 'Machine: processor time, a CPU, 1 thread, torch 2.10.'
    # (72 - 70 + 72 - 71) / 2, and half of the difference as standard error.
    assert lines[-2:] == [
        '| latency | 50.0 ± 0.00 % | 60.0 ± 0.00 % | 55.0 ± 7.07 % | 1.10 '
        '| 2 | 72.00 ± 0.00 | +1.50 ± 0.50 |',
        '| flops | 50.0 ± 0.00 % | 60.0 ± 0.00 % | too noisy | 1.50 | 2 '
        '| 70.50 ± 0.71 |  |',
    ]


@pytest.mark.parametrize('name', ['equal_latency', 'equal_latency_resnet18'])
def test_docs_have_the_results(name):
    path = equal_latency.RESULTS.with_stem(name)
    found = measured_part(PAGE.read_text('utf-8'), marks_of(path))
    assert found == report(path)
