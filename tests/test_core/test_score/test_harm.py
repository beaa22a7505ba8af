# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The running mean of squared gradients, against a weighted mean."""

import pytest
import torch

from mmlapp.core.score.harm import Harm

USABLE = torch.tensor(True)


@pytest.mark.parametrize(('memory', 'steps'), [(0.1, 100), (0.5, 7)])
@pytest.mark.parametrize('count', [1, 2, 30])
def test_old_steps_weigh_less_and_all_weights_are_one(memory, steps, count):
    gradients = torch.randn(count, 5, dtype=torch.float64)
    harm = Harm(5, memory).double()
    for gradient in gradients:
        harm.note(gradient, USABLE, steps)
    keep = 1 - 1 / (memory * steps)
    weights = torch.tensor([keep ** (count - 1 - k) for k in range(count)])
    weights = (weights / weights.sum()).double()
    expected = (weights[:, None] * gradients**2).sum(0)
    torch.testing.assert_close(harm.mean(), expected)


def test_of_a_short_phase_the_last_step_counts():
    harm = Harm(2, 0.1)
    for value in (1.0, 2.0, 3.0):
        harm.note(torch.full((2,), value), USABLE, 5)
    assert harm.mean().tolist() == [9, 9]


def test_nothing_is_known_at_first_and_after_a_new_beginning():
    harm = Harm(2, 0.1)
    assert harm.mean() is None
    harm.note(torch.full((2,), torch.inf), ~USABLE, 10)
    assert harm.mean() is None
    harm.note(torch.ones(2), USABLE, 10)
    assert harm.mean().tolist() == [1, 1]
    harm.note(torch.full((2,), torch.inf), ~USABLE, 10)
    assert harm.mean().tolist() == [1, 1]
    harm.begin()
    assert harm.mean() is None
