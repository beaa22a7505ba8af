# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What every score must do in a phase, whatever it looks at."""

import pytest
import ranks
import torch

from mmlapp.core import Phase, attach
from mmlapp.core.score import SCORES

NAMES = [n for n in SCORES if SCORES[n].__module__.startswith('mmlapp.')]
every_score = pytest.mark.parametrize('name', NAMES)
STEPS = 6
METHOD = dict(type='ranking', steps=3)


def ranked(model, images, name):
    return attach(model, images, method=METHOD, score=name)


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
    return ranks.states_of_both(
        tmp_path_factory.mktemp('ranks'),
        {name: dict(method=METHOD, score=name) for name in NAMES},
    )


@pytest.mark.slow
@every_score
def test_two_processes_score_alike(processes, name):
    """Bit by bit, though they see different images."""
    one, other = (found[name] for found in processes)
    assert len(one) == ranks.STEPS
    for state, twin in zip(one, other, strict=True):
        assert_equal(state, twin)
    assert not one[-1]['gate'].all()
