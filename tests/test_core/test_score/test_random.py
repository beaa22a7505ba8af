# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

import pytest
import torch
from pruning_steps import train

from mmlapp.core import PruningError, ScoreContext, attach
from mmlapp.core.score import SCORES

DRAW = """
import torch
from mmlapp.core import ScoreContext
from mmlapp.core.score import SCORES
score = SCORES.build(dict(type='random', seed=3))
print(score(ScoreContext(torch.zeros(4, 1), name='a')).tolist())
"""


def draw(seed=3, name='a', count=4):
    score = SCORES.build(dict(type='random', seed=seed))
    return score(ScoreContext(torch.zeros(count, 1), name=name)).tolist()


def test_numbers_are_those_of_the_seed_and_the_layer():
    torch.manual_seed(7)
    assert draw() == draw()
    assert len({tuple(draw(s, n)) for s in (3, 4) for n in 'ab'}) == 4


def test_they_are_drawn_evenly():
    found = torch.tensor(draw(count=10_000)).sort().values
    steps = (torch.arange(10_000) + 0.5) / 10_000
    assert (found - steps).abs().max() < 0.02


@pytest.mark.slow
def test_they_are_the_same_in_another_process():
    found = subprocess.run(
        [sys.executable, '-c', DRAW],
        env={'PYTHONHASHSEED': '1', 'PYTHONPATH': ':'.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(draw())


def test_a_phase_keeps_what_was_drawn(model, images):
    pruner = attach(model, images, method='uniform', score='random')
    pruner.begin({'flops': 0.5}, 5)
    before = pruner.scores.clone()
    train(model, images, 4)
    assert torch.equal(pruner.scores, before)


@pytest.mark.parametrize('seed', [0.5, True, 'a', None])
def test_a_seed_that_is_no_whole_number(seed):
    with pytest.raises(PruningError, match=f'score random seed={seed!r}: '):
        SCORES.build(dict(type='random', seed=seed))
