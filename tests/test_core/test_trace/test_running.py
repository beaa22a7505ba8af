# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Who reads parameters: a forward, or somebody else."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmlapp.core.trace.running import in_forward


class Asks(nn.Module):
    def __init__(self):
        super().__init__()
        self.answers = []

    def forward(self, x):
        self.answers.append(in_forward())
        return x * 2


class Fails(nn.Module):
    def forward(self, x):
        raise ValueError('no')


def test_nobody_runs():
    assert not in_forward()


@pytest.mark.parametrize(
    'run',
    [
        lambda model, x: model(x),
        lambda model, x: model.forward(x),
        lambda model, x: nn.Sequential(model)(x),
        lambda model, x: torch.func.functional_call(model, {}, x),
    ],
)
def test_a_forward_runs(run):
    model = Asks()
    run(model, torch.rand(2))
    assert model.answers == [True]
    assert not in_forward()


def test_hooks_belong_to_a_forward():
    model, seen = nn.ReLU(), []
    model.register_forward_hook(lambda *args: seen.append(in_forward()))
    model(torch.rand(2))
    assert seen == [True]


def test_an_exception_ends_it():
    with pytest.raises(ValueError, match='no'):
        Fails()(torch.rand(2))
    assert not in_forward()


def test_other_threads_do_not_matter():
    model = Asks()

    def ask(*args):
        with ThreadPoolExecutor(1) as pool:
            model.answers.append(pool.submit(in_forward).result())

    model.register_forward_hook(ask)
    model(torch.rand(2))
    assert model.answers == [True, False]


@pytest.mark.parametrize('reentrant', [False, True])
def test_a_backward_that_runs_a_part_again(reentrant):
    answers = []

    def part(x):
        answers.append(in_forward())
        return x.square()

    x = torch.rand(2, requires_grad=True)
    checkpoint(part, x, use_reentrant=reentrant).sum().backward()
    assert len(answers) == 2
    assert answers[1]
