# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What every score must do in a phase, whatever it looks at."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmlapp.core import Phase, attach
from mmlapp.core.score import SCORES

NAMES = [n for n in SCORES if SCORES[n].__module__.startswith('mmlapp.')]
every_score = pytest.mark.parametrize('name', NAMES)
STEPS = 6


def ranked(model, images, name):
    return attach(
        model, images, method=dict(type='ranking', steps=3), score=name
    )


def train(model, images, steps, seed):
    """Steps on random images, with weight decay."""
    dice = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        moved = images + torch.rand(images.shape, generator=dice).to(images)
        (model(moved) - 1).square().mean().backward()
        optimizer.step()
        model.pruner.step()


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@every_score
def test_a_phase_that_is_resumed_goes_on_bit_for_bit(normed, images, name):
    """What batches told is in the state: they are not shown again."""
    images = images[:2].double()
    whole, part, resumed = normed(), normed(), normed()
    part.load_state_dict(whole.state_dict())
    for model in (whole, part, resumed):
        ranked(model, images, name)
    for model in (whole, part):
        model.pruner.prepare(model, [lambda m=model: m(images)])
        model.pruner.begin({'flops': 0.55}, STEPS)
        train(model, images, STEPS // 2, seed=0)
    assert part.pruner.phase == Phase.PRUNING
    resumed.load_state_dict(part.state_dict())
    for model in (whole, resumed):
        train(model, images, STEPS - STEPS // 2, seed=1)
    assert resumed.pruner.phase == Phase.FINISHED
    assert resumed.pruner.scores.unique().numel() > 2
    assert_equal(resumed.state_dict(), whole.state_dict())


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """States of the pruners of two processes, by score."""
    folder = tmp_path_factory.mktemp('ranks')
    worker = Path(__file__).with_name('rank_worker.py')
    root = str(Path(__file__).parents[3])
    running = [
        subprocess.Popen(
            [sys.executable, worker, folder / 'store', rank, *NAMES],
            env=dict(os.environ, PYTHONPATH=root, OMP_NUM_THREADS='1'),
            cwd=folder,
        )
        for rank in ('0', '1')
    ]
    assert [process.wait(timeout=500) for process in running] == [0, 0]
    return [torch.load(folder / f'{rank}.pth') for rank in (0, 1)]


@pytest.mark.slow
@every_score
def test_two_processes_score_alike(processes, name):
    """Bit by bit, though they see different images."""
    one, other = (found[name] for found in processes)
    assert len(one) == STEPS
    for state, twin in zip(one, other, strict=True):
        assert_equal(state, twin)
    assert not one[-1]['gate'].all()
