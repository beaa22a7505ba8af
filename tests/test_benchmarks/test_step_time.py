# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is timed is what the names of the columns say."""

import pytest
import step_time
import torch
from step_time import CASES, line, make_step, measure, narrowed

from mmlapp.core import attach


def test_a_step_steps_the_pruner(small):
    build, shape, target = CASES[small]
    model, images = build(), torch.rand(shape)
    pruner = attach(model, images)
    pruner.begin({'flops': target}, 5)
    step = make_step(model, images, torch.tensor([0, 1]))
    assert step() > 0
    assert pruner.progress.done == 1


def test_all_groups_are_narrowed_alike(small):
    build, shape, target = CASES[small]
    model = build()
    slim = narrowed(model, torch.rand(shape), target, 4)
    assert not hasattr(slim, 'pruner')
    assert [slim[i].out_channels for i in range(2)] == [8, 8]
    assert model[0].out_channels == 16


def test_all_columns_are_measured(small):
    row = measure(small, 2, None, 1)
    for kind in ('pruning', 'narrow', 'run'):
        low, high = row[f'{kind}_ratio_low'], row[f'{kind}_ratio_high']
        assert 0 < low <= row[f'{kind}_ratio'] <= high
    assert '34.0% of the FLOPs' in line(small, row)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_step_is_cast(small, dtype):
    build, shape, _ = CASES[small]
    model, seen = build(), []
    model.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    make_step(model, torch.rand(shape), torch.tensor([0, 1]), dtype)()
    assert seen == [dtype]


def test_the_clock_waits_for_a_gpu(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: calls.append(1))
    assert step_time.now('cpu') <= step_time.now('cuda')
    assert calls == [1]
