# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the log and the visualizer are told."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmlapp.core import Pruner, attach
from mmlapp.engine.training.report import (
    StepTime,
    channels_text,
    count_parameters,
    group_scalars,
    groups_text,
    report_groups,
    report_narrowing,
)


class Log:
    """Collects messages."""

    def __init__(self) -> None:
        self.text = ''

    def info(self, message: str) -> None:
        self.text += message


@pytest.fixture
def pruner() -> Pruner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.begin({'flops': 0.5}, 4)
    pruner.gate.data[:6] = 0
    return pruner


def test_every_group_has_its_scalars(pruner: Pruner) -> None:
    scalars = group_scalars(pruner)
    assert scalars['pruning/keep/0'] == 0.25
    assert scalars['pruning/threshold/0'] == pruner.method.threshold.item()
    assert scalars['pruning/flops_ratio'] == pruner.ratios()['flops'] == 0.25
    assert scalars['pruning/flops_target'] == pruner.targets()['flops']


def test_the_table_says_how_far_the_phase_is(pruner: Pruner) -> None:
    log: Any = Log()
    report_groups(log, pruner)
    assert log.text.startswith(
        'Pruning: flops 25.00 % of the dense network, target '
    )
    head, row = log.text.splitlines()[-2:]
    assert head.split() == ['group', 'channels', 'kept', 'threshold']
    threshold = f'{pruner.method.threshold.item():.4f}'
    assert row.split() == ['0', '8', '→', '2', '25.0%', threshold]
    assert len(head) == len(row)
    pruner.finish()
    report_groups(log, pruner)
    assert 'Pruning finished: flops 50.00 % of' in log.text


def test_a_mask_from_outside_is_reported(pruner: Pruner) -> None:
    pruner.set_mask(torch.arange(8) < 4, {'flops': 0.6})
    log: Any = Log()
    report_groups(log, pruner)
    assert 'flops 50.00 % of the dense network, target 60.00 %' in log.text


def test_narrowing_is_reported_with_parameters(pruner: Pruner) -> None:
    pruner.finish()
    log: Any = Log()
    report_narrowing(log, pruner.plan(), 1000, 400)
    assert '(50.00%), parameters 1,000 → 400 (40.00%)' in log.text
    assert log.text.endswith(', channels 8 → 4 in 1 groups')


@pytest.fixture
def attending() -> Pruner:
    """One group of four heads, beside the channels of an MLP."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 8, batch_first=True)
    return attach(layer, torch.rand(1, 3, 16))


def test_heads_are_told_from_channels(attending: Pruner) -> None:
    assert groups_text(attending) == '2 groups, 8 channels and 4 heads'
    mask = torch.arange(len(attending.gate)) % 4 != 0
    attending.set_mask(mask, {'flops': 0.9})
    log: Any = Log()
    report_groups(log, attending)
    assert '  4 → 3 heads  ' in log.text
    assert '  8 → 6  ' in log.text
    plan = attending.plan()
    assert list(plan.heads.values()) == [4]
    assert channels_text(plan) == (
        'channels 8 → 6 and heads 4 → 3 in 2 groups'
    )


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 2)
    assert count_parameters(nn.Sequential(layer, layer)) == 8


def run(step: int, **scalars: float) -> Any:
    return SimpleNamespace(
        iter=step,
        logger=Log(),
        message_hub=SimpleNamespace(
            log_scalars={
                f'train/{name}': HistoryBuffer(
                    [9.0] * 3 + [value] * 5, [1] * 8
                )
                for name, value in scalars.items()
            }
        ),
    )


def test_steps_are_timed_without_waiting_for_data() -> None:
    timer = StepTime(5)
    timer.after_step(run(9, time=9.0, data_time=0.0))
    timer.narrowed(run(10, time=3.0, data_time=1.0))
    soon, late = (run(n, time=1.5, data_time=0.5) for n in (15, 16))
    for runner in (soon, late):
        timer.after_step(runner)
    assert soon.logger.text == ''
    assert late.logger.text == (
        'Pruning: a training step takes 1.0000 s; before narrowing it took '
        '2.0000 s (50%)'
    )
    again = run(40, time=1.5, data_time=0.5)
    timer.after_step(again)
    assert again.logger.text == ''


def test_without_a_timer_nothing_is_said() -> None:
    timer = StepTime(5)
    timer.narrowed(run(10))
    runner = run(30, time=1.5, data_time=0.5)
    timer.after_step(runner)
    assert runner.logger.text == ''


def test_time_and_waiting_are_of_the_same_steps() -> None:
    """The timer notes the wait before a step, and its time after our hook."""
    timer, runner = StepTime(2), run(4, time=0.0, data_time=0.0)
    scalars = runner.message_hub.log_scalars
    scalars['train/time'] = HistoryBuffer([0.5, 3.0, 4.0], [1] * 3)
    scalars['train/data_time'] = HistoryBuffer([0.1, 1.0, 2.0, 7.0], [1] * 4)
    timer.narrowed(runner)
    assert timer.before == 2
