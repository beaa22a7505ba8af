# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.benchmark import rows
from mmlapp.engine.latency import backends


@pytest.fixture(scope='module')
def tool(load_tool):
    return load_tool('benchmark')


FAST = ['--backend', 'torch', '--rounds', '2']


def test_a_run_from_its_files(tool, classifier_run, tmp_path, capsys):
    run = classifier_run()
    speed, picture = tmp_path / 'speed.json', tmp_path / 'speed.png'
    tool.main(
        [
            str(run.config),
            str(run.checkpoint),
            *FAST,
            *('--profile', '--accuracy'),
            *('--json', str(speed), '--plot', str(picture)),
        ]
    )
    out = capsys.readouterr().out
    assert 'masked' in out
    assert 'backbone.layer1.0.conv1' in out
    data = json.loads(speed.read_text(), parse_constant=pytest.fail)
    assert [row['name'] for row in data['rows']] == ['dense', 'masked', 'slim']
    dense, masked, slim = data['rows']
    assert dense['macs'] == masked['macs'] > slim['macs']
    assert slim['error'] < 1e-4
    assert slim['agreement'] == 1
    assert slim['metrics'] == masked['metrics']
    assert 0 <= slim['metrics']['accuracy/top1'] <= 100
    assert dense['metrics'] is None  # random weights
    assert 'note: accuracy: accuracy/top1 of 16 images of test_da' in out
    assert 0 < slim['median'] <= slim['p90']
    assert data['settings'][0]['device']
    assert data['layers']
    assert picture.stat().st_size > 0


def test_a_failed_backend_is_told_and_the_rest_measured(
    tool, classifier_run, tmp_path, monkeypatch
):
    def fail(*args):
        raise PruningError('no compiler')

    monkeypatch.setitem(backends.BACKENDS, 'compile', fail)
    run = classifier_run()
    speed = tmp_path / 'speed.json'
    argv = ['--backend', 'torch', 'compile', '--rounds', '1']
    with pytest.raises(SystemExit) as stop:
        tool.main(
            [
                str(run.config),
                str(run.checkpoint),
                *argv,
                *('--json', str(speed)),
            ]
        )
    assert 'error: slim on compile failed: PruningError: no' in stop.value.code
    found = json.loads(speed.read_text())['rows']
    assert [bool(row['median']) for row in found] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ('option', 'name'),
    [
        ('--json', 'run.py'),
        ('--json', 'epoch_3.pth'),
        ('--plot', 'dense.svg'),
        ('--json', 'speed.svg'),
    ],
)
def test_what_is_read_is_not_written_over(
    tool, classifier_run, tmp_path, option, name, monkeypatch
):
    monkeypatch.delattr(rows, 'interleaved')
    run = classifier_run()
    dense = tmp_path / 'dense.svg'
    dense.write_bytes(run.checkpoint.read_bytes())
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    argv = ['--dense', str(dense), '--plot', str(tmp_path / 'speed.svg')]
    with pytest.raises(SystemExit) as stop:
        tool.main(
            [
                *(str(run.config), str(run.checkpoint), *argv, *FAST),
                *(option, str(tmp_path / name)),
            ]
        )
    assert 'another use' in str(stop.value)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ('argv', 'text'),
    [
        (['--threads', '0'], 'threads=0'),
        (['--rounds', '0'], 'rounds=0'),
        (['--dense', 'none.pth'], "dense='none.pth': there is no such file"),
        (['--device', 'cuda', '--backend', 'openvino'], 'cuda'),
        (['--plot', 'none/speed.png'], "plot='none/speed.png'"),
        (['--plot', 'tests'], "plot='tests' is a folder"),
        (['--plot', 'speed.doc'], "plot='speed.doc': choose one of"),
    ],
)
def test_bad_arguments(
    tool, classifier_run, tmp_path, argv, text, monkeypatch
):
    # Whatever can be known is refused before anything is measured.
    monkeypatch.delattr(rows, 'interleaved')
    run = classifier_run()
    speed = tmp_path / 'speed.json'
    with pytest.raises(SystemExit) as stop:
        tool.main(
            [
                str(run.config),
                str(run.checkpoint),
                *FAST,
                *argv,
                *('--json', str(speed)),
            ]
        )
    assert text in str(stop.value)
    assert '\n' not in str(stop.value)
    assert not speed.exists()
