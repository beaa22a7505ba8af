# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a run notes of its pruning."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import EVERY_METHOD
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.core.progress import Phase, Progress
from mmlapp.engine.training import history
from mmlapp.engine.training.history import (
    NAME,
    POINTS,
    SHARES,
    RunHistory,
    history_files,
    is_due,
    layer_sizes,
    plan_of,
    score_quantiles,
    state_of,
)

MakeRunner = Callable[..., Runner]


def entries(folder: Path) -> list[dict[str, Any]]:
    """Of all files in order of their time."""
    return [
        json.loads(line)
        for path in sorted(folder.rglob('pruning*.jsonl'))
        for line in path.read_text('utf-8').splitlines()
    ]


def states(folder: Path) -> list[dict[str, Any]]:
    return [entry for entry in entries(folder) if entry['kind'] == 'state']


class Mixed(nn.Module):
    """Layers of every kind of width."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.norm(self.depthwise(self.plain(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def mixed() -> nn.Module:
    torch.manual_seed(0)
    model = Mixed()
    attach(model, torch.rand(2, 3, 8, 8))
    return model


def test_widths_are_those_of_the_network_when_it_is_narrow(
    mixed: Any,
) -> None:
    pruner = mixed.pruner
    dense = pruner.layout.shapes
    layers = layer_sizes(mixed, dense)
    mask = torch.rand(len(pruner.gate)) < 0.5
    mask[[0, 8]] = True
    pruner.set_mask(mask, {'flops': 0.5})
    plan = plan_of(pruner)
    found = {layer.name: layer.of(plan) for layer in layers}
    before = {layer.name: layer.of(plan, dense=True) for layer in layers}
    narrow(mixed, pruner.plan())
    assert found == {
        'plain': (3, mixed.plain.out_channels),
        'depthwise': (None, mixed.depthwise.out_channels),
        'up': (mixed.up.in_channels, mixed.up.out_channels),
        'head': (mixed.head.in_features, 4),
    }
    assert found['up'][1] == int(mask[8:].sum()) < 6
    assert before == {
        'plain': (3, 8), 'depthwise': (None, 8), 'up': (8, 6), 'head': (6, 4)
    }  # fmt: skip
    # Of the narrow network the same layers are known.
    assert layer_sizes(mixed, dense) == layers


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.b.weight = self.a.weight
        self.c = nn.Conv2d(8, 2, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.c(self.a(x).relu() + self.b(x))


def test_tied_layers_have_the_width_of_their_weight() -> None:
    """A plan knows it under one of its names."""
    model = Tied()
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.set_mask(torch.arange(8) < 3, {'flops': 0.5})
    layers = layer_sizes(model, pruner.plan().shapes)
    found = {layer.name: layer.of(plan_of(pruner)) for layer in layers}
    assert found == {'a': (3, 3), 'b': (3, 3), 'c': (3, 2)}


def test_scores_are_told_by_their_quantiles(mixed: Any) -> None:
    pruner = mixed.pruner
    # 0, 10, ... 40 with one more of each would be ranks: plain numbers here.
    pruner.scores.copy_(
        torch.tensor([7.0, 0, 3, 1, 6, 4, 2, 5, 50, 0, 10, 40, 20, 30])
    )
    found = score_quantiles(pruner)
    assert SHARES == (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    # Places 0.7, 1.75, 3.5, 5.25, 6.3 of 0 to 7; 0.5, 1.25, 2.5, 3.75, 4.5.
    assert found.tolist() == [
        [0, 1, 2, 4, 5, 6, 7],
        [0, 0, 10, 20, 40, 40, 50],
    ]


@pytest.mark.parametrize('steps', [1, 7, 100, 101, 5000])
def test_a_phase_has_few_records_however_long_it_is(steps: int) -> None:
    done = [
        n
        for n in range(steps + 1)
        if is_due(Progress(Phase.PRUNING, n, steps))
    ]
    assert done[0] == 0
    assert done[-1] == steps
    assert len(done) == min(steps, POINTS) + 1
    gaps = [b - a for a, b in pairwise(done)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize('name', EVERY_METHOD)
def test_every_method_can_be_noted(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
    )
    images = torch.rand(2, 3, 6, 6)
    pruner = attach(model, images, **EVERY_METHOD[name])
    pruner.prepare(model, [lambda: model(images)] * 2)
    pruner.begin({'flops': 0.6}, 16)
    found = [state_of(pruner)]
    for _ in range(2):
        (model(images).square().mean() + pruner.loss()).backward()
        pruner.step()
        found.append(state_of(pruner))
    for state in found:
        json.dumps(state, allow_nan=False)
        assert state.keys() == found[0].keys()
        sizes = {len(values) for values in state['shown'].values()}
        assert sizes <= {len(pruner.groups)}
    assert ('threshold' in found[0]['shown']) == name.startswith('lapp')


def test_a_run_notes_its_phase_and_its_end(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner(narrow=True)
    groups = {g.name: g.size for g in runner.model.pruner.groups}
    runner.train()
    head, *middle, end = entries(tmp_path)
    assert head['kind'] == 'run'
    assert dict(head['groups']) == groups
    assert head['settings']['method'] == 'lapp'
    assert head['settings']['keep_streams'] is False
    assert ['head.fc', 10, 'output of the network'] in head['frozen']
    assert (head['iter'], head['max_iters']) == (0, 12)
    # Two epochs of four steps; the network is narrow after them.
    assert [state['iter'] for state in middle] == list(range(9))
    assert [s['phase'] for s in middle] == ['pruning'] * 8 + ['finished']
    assert middle[0]['kept'] == list(groups.values())
    assert end == {'kind': 'end', 'iter': 12}
    names = [name for name, *_ in head['layers']]
    for name, (inputs, outputs) in zip(
        names, middle[-1]['widths'], strict=True
    ):
        shape = runner.model.get_submodule(name).weight.shape
        assert list(shape[:2]) == [outputs, inputs]
    reached = middle[-1]['ratios']['flops']
    assert 0.49 <= reached <= middle[-1]['targets']['flops'] == 0.5


def test_a_resumed_run_goes_on_in_a_file_of_its_own(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    make_runner(epochs=3).train()
    whole = states(tmp_path)
    resumed = make_runner(
        lambda c: c.update(
            load_from=str(tmp_path / 'epoch_1.pth'), resume=True
        ),
        epochs=3,
        work_dir=tmp_path / 'again',
    )
    resumed.train()
    head, *rest = entries(tmp_path / 'again')
    assert head['iter'] == 4
    # What was known at iteration 4 is told again, and then what follows.
    assert [s['iter'] for s in rest] == [4, 5, 6, 7, 8, 12]
    assert rest[:-1] == [s for s in whole if s['iter'] >= 4]


def test_a_run_of_narrow_weights_tells_their_widths(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    make_runner(narrow=True).train()
    first = entries(tmp_path)
    tuned = make_runner(
        lambda c: c.update(load_from=str(tmp_path / 'epoch_3.pth')),
        epochs=1,
        narrow=True,
        work_dir=tmp_path / 'tuned',
    )
    tuned.train()
    head, state, end = entries(tmp_path / 'tuned')
    for name in ('groups', 'layers', 'unit'):
        assert head[name] == first[0][name]
    assert state['phase'] == 'finished'
    for name in ('kept', 'widths', 'ratios', 'targets'):
        assert state[name] == first[-2][name]
    assert (state['iter'], end['iter']) == (0, 4)


def test_each_step_that_is_due_is_noted_once(
    make_runner: MakeRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four steps of two iterations, of which every other one is due."""
    monkeypatch.setattr(history, 'POINTS', 2)
    make_runner(
        lambda c: c['optim_wrapper'].update(accumulative_counts=2), epochs=2
    ).train()
    found = [(s['iter'], s['done']) for s in states(tmp_path)]
    assert found == [(0, 0), (4, 2), (8, 4)]


def test_before_the_phase_there_is_no_state(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    def late(config: dict[str, Any]) -> None:
        config['custom_hooks'][0].update(begin_iters=2, prune_epochs=0.5)

    runner = make_runner(late, epochs=1)
    runner.train()
    assert [s['iter'] for s in states(tmp_path)] == [2, 3, 4]


def test_only_the_main_process_writes(
    make_runner: MakeRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others find out the same: a method may ask them for their part."""
    asked = []

    def counted(*args: Any) -> dict[str, Any]:
        asked.append(args)
        return state_of(*args)

    monkeypatch.setattr(history, 'state_of', counted)
    monkeypatch.setattr(history, 'is_main_process', lambda: False)
    make_runner(epochs=2).train()
    assert entries(tmp_path) == []
    assert len(asked) == 9


def test_a_file_that_cannot_be_written_does_not_end_the_run(
    mixed: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    runner: Any = SimpleNamespace(
        model=mixed,
        log_dir=str(tmp_path / 'nowhere'),
        iter=0,
        max_iters=4,
        train_loop=None,
        logger=SimpleNamespace(warning=said.append),
    )
    notes = RunHistory()
    notes.open(runner, mixed.pruner)
    notes.close(runner)
    (text,) = said
    assert f'nowhere/{NAME} cannot be written (No such file' in text
    assert 'the run goes on' in text


def test_runs_that_begin_within_a_second_are_not_mixed(
    mixed: Any, tmp_path: Path
) -> None:
    """MMEngine calls their folders by the second."""
    runs: list[Any] = [
        SimpleNamespace(
            model=mixed,
            log_dir=str(tmp_path),
            iter=iters,
            max_iters=9,
            train_loop=None,
        )
        for iters in range(11)
    ]
    notes = [RunHistory() for _ in runs]
    for note, runner in zip(notes, runs, strict=True):
        note.open(runner, mixed.pruner)
    for note, runner in zip(notes, runs, strict=True):
        note.close(runner)
    files = history_files(tmp_path)
    assert len(files) == len(runs)
    assert files[0].name == NAME
    for runner, path in zip(runs, files, strict=True):
        lines = map(json.loads, path.read_text('utf-8').splitlines())
        found = [(line['kind'], line['iter']) for line in lines]
        assert found == [('run', runner.iter), ('end', runner.iter)]


def test_what_is_not_finite_is_none(mixed: Any) -> None:
    pruner = mixed.pruner
    pruner.begin({'flops': 0.5}, 4)
    pruner.method.threshold.data[1] = torch.nan
    shown = state_of(pruner)['shown']['threshold']
    assert shown[1] is None
    assert shown[0] == pytest.approx(float(pruner.method.threshold[0]))


def test_no_setting_is_too_odd_to_be_noted(mixed: Any, tmp_path: Path) -> None:
    mixed.pruner.settings = {
        'score': {'type': 'own', 'cap': float('inf')},
        'method': nn.ReLU(),
        'scope': ('a', 'b'),
    }
    runner: Any = SimpleNamespace(
        model=mixed,
        log_dir=str(tmp_path),
        iter=0,
        max_iters=4,
        train_loop=None,
    )
    RunHistory().open(runner, mixed.pruner)
    (head,) = entries(tmp_path)
    assert head['settings'] == {
        'scope': ['a', 'b'],
        'method': 'ReLU',
        'score': {'type': 'own', 'cap': None},  # JSON has no infinity
    }
