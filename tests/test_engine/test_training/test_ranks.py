# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Processes that differ are found; real ones are in test_distributed."""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from torch import nn

from mmlapp.core import Pruner, PruningError, attach
from mmlapp.engine.training import ranks

MakeRunner = Callable[..., Runner]


@pytest.fixture
def pruner() -> Pruner:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)
    )
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.begin({'flops': 0.5}, 10)
    return pruner


def spoil_gate(pruner: Pruner) -> None:
    pruner.gate[9] = 0.5


def spoil_threshold(pruner: Pruner) -> None:
    pruner.method.threshold.data[1] += 1e-6


def spoil_scores(pruner: Pruner) -> None:
    pruner.scores[13] = float('nan')


def spoil_progress(pruner: Pruner) -> None:
    pruner.progress = replace(pruner.progress, done=1)


def spoil_method(pruner: Pruner) -> None:
    pruner.method.update.state[-1] = 1


@pytest.mark.parametrize(
    ('spoil', 'text'),
    [
        (spoil_gate, 'rank 1 differs from rank 0 in the gate of 2: '),
        (spoil_threshold, 'in the threshold of 2: '),
        (spoil_scores, 'in the scores of 2: '),
        (spoil_progress, 'in the progress: '),
        (spoil_method, 'in the state: '),
    ],
)
def test_the_first_difference_is_named(
    pruner: Pruner,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Pruner], None],
    text: str,
) -> None:
    other = copy.deepcopy(pruner)
    monkeypatch.setattr(
        ranks,
        'dist',
        SimpleNamespace(
            get_world_size=lambda: 2,
            all_gather=lambda mine: [mine, ranks.checksums(other)[1]],
        ),
    )
    ranks.check_ranks(pruner)
    with torch.no_grad():
        spoil(other)
    with pytest.raises(PruningError, match=text):
        ranks.check_ranks(pruner)


def test_one_process_compares_nothing(pruner: Pruner) -> None:
    spoil_scores(pruner)
    ranks.check_ranks(pruner)


@pytest.mark.parametrize(
    ('interval', 'expected'),
    [
        (None, [2, 4, 6, 8]),  # of PruningHook, and the end of the phase
        (3, [3, 6, 8]),
        (50, [8]),
    ],
)
def test_it_compares_in_the_phase_and_before_narrowing(
    make_runner: MakeRunner,
    monkeypatch: pytest.MonkeyPatch,
    interval: int | None,
    expected: list[int],
) -> None:
    steps = []

    def check(pruner: Pruner) -> None:
        (layer, *_) = pruner.groups[0].layers
        assert layer.module.out_channels == pruner.groups[0].size
        steps.append(pruner.progress.done)

    def change(config: dict[str, Any]) -> None:
        if interval is not None:
            config['custom_hooks'].append(
                dict(type='mmlapp.RankCheckHook', interval=interval)
            )

    monkeypatch.setattr(ranks, 'check_ranks', check)
    runner = make_runner(change, narrow=True)
    runner.train()
    assert steps == expected
    assert not hasattr(runner.model, 'pruner')


def test_a_hook_that_would_compare_too_late_is_refused(
    make_runner: MakeRunner,
) -> None:
    def late(config: dict[str, Any]) -> None:
        config['custom_hooks'].append(
            dict(type='mmlapp.RankCheckHook', priority='NORMAL')
        )

    with pytest.raises(PruningError, match='must act before PruningHook'):
        make_runner(late).train()


def test_a_model_without_a_pruner_is_refused(
    make_runner: MakeRunner,
) -> None:
    def change(config: dict[str, Any]) -> None:
        config['custom_hooks'] = [dict(type='mmlapp.RankCheckHook')]

    with pytest.raises(PruningError, match='has no pruner'):
        make_runner(change, plain=True).train()


def test_a_bad_interval_is_named() -> None:
    with pytest.raises(PruningError, match='interval=0: expected a whole'):
        ranks.RankCheckHook(0)
