# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the demo reads, counts and draws; the demo itself takes minutes."""

import importlib.util
import json
import sys
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
        dict(name=n, metric=m, flops=f, parameters=10, seconds=1.0)
        for n, m, f in (('dense', 90.0, 4e6), ('deployed', 81.0, 1e6))
    ]
    return dict(
        title='net',
        metric='accuracy/top1',
        rows=networks,
        latency_ratio=0.5,
        history=demo.history(tmp_path),
    )


def test_the_history_spans_the_whole_training(result: dict[str, Any]) -> None:
    history = result['history']
    assert history['flops'] == [(0, 1.0), (10, 0.8), (20, 0.4), (50, 0.4)]
    assert history['target'] == [(0, 1.0), (10, 0.7), (20, 0.4), (50, 0.4)]
    assert history['keep'] == {'backbone.conv1': 0.25}


def test_the_table_averages_over_seeds(
    demo: ModuleType,
    result: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = json.loads(json.dumps(result))
    other['rows'][1]['metric'] = 85.0
    demo.CONSOLE.width = 100
    demo.print_table([result, other])
    shown = capsys.readouterr().out
    assert '83.000' in shown  # mean of 81 and 85
    assert '81.000 to 85.000' in ' '.join(shown.split())
    assert '0.250' in shown  # FLOPs


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


def test_latency_is_taken_in_turns_without_gradients(demo: ModuleType) -> None:
    calls = []

    def model(name: str) -> Any:
        def forward(x: Tensor, samples: None, mode: str) -> None:
            calls.append((name, tuple(x.shape), torch.is_grad_enabled()))

        return forward

    demo.latency_ratio(model('a'), model('b'), (3, 2, 2), pairs=3)
    assert [c[0] for c in calls] == ['a', 'b'] * 8
    assert {c[1:] for c in calls} == {((32, 3, 2, 2), False)}
