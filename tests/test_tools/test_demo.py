# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the demo reads, counts and draws; the demo itself takes minutes."""

import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(
        'mmlapp_demo', ROOT / 'tools' / 'demo.py'
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def result(demo: ModuleType, tmp_path: Path) -> dict[str, Any]:
    rows = [
        {'step': 10, 'flops_ratio': 0.8},
        {
            'step': 10,
            'pruning/flops_ratio': 0.8,
            'pruning/flops_target': 0.7,
            'pruning/keep/backbone.conv1': 0.5,
        },
        {
            'step': 20,
            'pruning/flops_ratio': 0.4,
            'pruning/flops_target': 0.4,
            'pruning/keep/backbone.conv1': 0.25,
        },
        {'step': 50, 'flops_ratio': 0.4},
    ]
    folder = tmp_path / '20260101' / 'vis_data'
    folder.mkdir(parents=True)
    text = '\n'.join(json.dumps(row) for row in rows)
    (folder / 'scalars.json').write_text(text)
    networks = [
        dict(
            name=name,
            metric=metric,
            flops=flops,
            parameters=10,
            processor=seconds,
            seconds=1.0,
            latency=seconds / 1000,
        )
        for name, metric, flops, seconds in (
            ('dense', 90.0, 4e6, 50.0),
            ('deployed', 81.0, 1e6, 30.0),
        )
    ]
    return dict(
        title='ResNet-20 on the digits',
        metric='accuracy/top1',
        rows=networks,
        latency_ratio=0.5,
        widths={'backbone.conv1': [96, 33]},
        history=demo.history(tmp_path),
    )


def test_the_history_spans_the_whole_training(result: dict[str, Any]) -> None:
    history = result['history']
    assert history['flops'] == [(0, 1.0), (10, 0.8), (20, 0.4), (50, 0.4)]
    assert history['target'] == [(0, 1.0), (10, 0.7), (20, 0.4), (50, 0.4)]
    assert history['keep'] == {'backbone.conv1': 0.25}


def shown_rows(
    demo: ModuleType,
    results: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> dict[str, list[str]]:
    """The cells of each row that is printed, by the first one."""
    demo.CONSOLE.width = 100
    demo.print_tables(results)
    lines = capsys.readouterr().out.replace('┃', '│').splitlines()
    cells = ([cell.strip() for cell in line.split('│')] for line in lines)
    return {row[1]: row[2:-1] for row in cells if len(row) > 2}


def test_the_table_tells_what_is_left(
    demo: ModuleType,
    result: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = shown_rows(demo, [result], capsys)
    assert rows == {
        '': ['dense', 'deployed', 'deployed / dense'],
        'top-1 accuracy (%)': ['90.00', '81.00', '-9.00'],  # a difference
        'FLOPs for an image (M)': ['4.00', '1.00', '0.25'],
        'parameters (k)': ['0.0', '0.0', '1.00'],
        'training (processor seconds)': ['50', '30', '0.60'],
        '32 images on the CPU (ms)': ['50.0', '30.0', '0.50'],  # by turns
        'channels of conv1': ['96', '96 → 33', '0.34'],
    }


def test_the_table_averages_over_seeds(
    demo: ModuleType,
    result: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = json.loads(json.dumps(result))
    other['rows'][1]['metric'] = 85.0
    rows = shown_rows(demo, [result, other], capsys)
    assert rows['top-1 accuracy (%)'] == ['90.00', '83.00', '-7.00']
    assert rows['lowest to highest of 2 seeds'][1] == '81.00 to 85.00'


def test_the_picture_is_drawn(
    demo: ModuleType, result: dict[str, Any], tmp_path: Path
) -> None:
    demo.draw([result], tmp_path / 'demo.png')
    assert (tmp_path / 'demo.png').read_bytes()[:4] == b'\x89PNG'


def test_flops_are_multiply_adds(demo: ModuleType) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor, samples: None, mode: str) -> Tensor:
            return self.fc(self.conv(x).mean((2, 3)))

    counted = demo.count_flops(Model(), (3, 6, 6))
    assert counted == 36 * 9 * 3 * 4 + 20


def test_latency_is_taken_in_turns_without_gradients(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, clock = [], [0.0]
    monkeypatch.setattr(demo.time, 'perf_counter', lambda: clock[0])

    def model(name: str, seconds: float) -> Any:
        def forward(x: Tensor, samples: None, mode: str) -> None:
            calls.append((name, tuple(x.shape), torch.is_grad_enabled()))
            clock[0] += seconds

        return forward

    times = demo.latencies(model('a', 1), model('b', 4), (3, 2, 2), pairs=3)
    assert [c[0] for c in calls] == ['a', 'b'] * 8
    assert {c[1:] for c in calls} == {((32, 3, 2, 2), False)}
    assert times == {'deployed': 1, 'dense': 4, 'ratio': 0.25}


TOOL = """
import os, sys, time
end = time.process_time() + 0.1
while time.process_time() < end:
    pass
print(os.environ.get('OMP_NUM_THREADS'), *sys.argv[1:])
sys.exit(sys.argv[1] == 'fail')
"""


@pytest.fixture
def tool(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A repository with one tool; returns its log."""
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools' / 'tool.py').write_text(TOOL)
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    return tmp_path / 'logs' / 'tool.log'


def test_what_a_program_takes_is_its_own(demo: ModuleType, tool: Path) -> None:
    """Not what runs beside it, as a second thread does here."""
    stop = threading.Event()
    idler = threading.Thread(target=lambda: stop.wait(5))
    idler.start()
    try:
        spent = demo.call('tool.py', 'a', 1, log=tool)
    finally:
        stop.set()
        idler.join()
    assert 0.1 <= spent.processor < 2
    assert spent.seconds >= 0.1
    assert tool.read_text().split()[1:] == ['a', '1']


def test_a_program_that_fails_is_told(demo: ModuleType, tool: Path) -> None:
    with pytest.raises(SystemExit, match=r'tool.py failed, see .*tool.log'):
        demo.call('tool.py', 'fail', log=tool)


@pytest.mark.parametrize(('cores', 'together'), [({0, 1}, 2), ({0}, 1)])
def test_a_pair_is_trained_at_once_where_there_are_cores(
    demo: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: set[int],
    together: int,
) -> None:
    running: set[str] = set()
    most = []

    def train(config: str, folder: Path, seed: int) -> Any:
        running.add(config)
        time.sleep(0.05)
        most.append(len(running))
        running.discard(config)
        return folder / 'last.pth', demo.Spent(1.0, float(len(config)))

    monkeypatch.setattr(demo, 'train', train)
    monkeypatch.setattr(demo.os, 'sched_getaffinity', lambda pid: cores)
    task = demo.TASKS['classification']
    checkpoints, spent = demo.train_both(task, tmp_path, 0)
    assert max(most) == together
    assert checkpoints['pruned'] == tmp_path / 'pruned' / 'last.pth'
    assert spent['dense'].processor == len(task.dense)


@pytest.fixture
def run_demo(
    demo: ModuleType,
    result: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Runs the demo with arguments; returns the titles that were trained."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setattr(demo, 'draw', lambda *args: None)
    trained: list[str] = []

    def run_task(task: Any, out: Path, seed: int) -> dict[str, Any]:
        trained.append(task.title)
        return {**result, 'title': task.title, 'seed': seed}

    monkeypatch.setattr(demo, 'run_task', run_task)

    def run(*arguments: str) -> list[str]:
        trained.clear()
        monkeypatch.setattr(
            'sys.argv', ['demo.py', '--out', str(tmp_path / 'o'), *arguments]
        )
        demo.main()
        return list(trained)

    return run


def test_a_demo_that_was_stopped_goes_on(run_demo: Any) -> None:
    both = ['ResNet-20 on the digits', 'ATSS on scattered digits']
    assert run_demo('--resume', '--only', 'classification') == both[:1]
    assert run_demo('--resume') == both[1:]
    assert run_demo('--resume') == both  # the one before had ended


def test_a_demo_begins_anew_unless_it_is_to_resume(run_demo: Any) -> None:
    run_demo('--only', 'classification')
    assert len(run_demo()) == 2


def test_what_other_sources_did_is_run_again(
    demo: ModuleType, run_demo: Any, tmp_path: Path
) -> None:
    run_demo('--only', 'classification')
    (file,) = tmp_path.rglob('result.json')
    assert not demo.is_stale(file)
    os.utime(file, (0, 0))
    assert len(run_demo('--resume', '--only', 'classification')) == 1
