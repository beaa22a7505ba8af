# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.distributed as dist

from mmlapp.core.pruner.ranks import (
    holds_on_all,
    mean_gradient,
    mean_over_ranks,
)


@pytest.fixture(params=[1, 3])
def ranks(request, monkeypatch):
    """As many processes, whose tensors are all like ours."""
    count = request.param
    if count > 1:
        monkeypatch.setattr(dist, 'is_initialized', lambda: True)
        monkeypatch.setattr(dist, 'get_world_size', lambda: count)
        monkeypatch.setattr(dist, 'all_reduce', lambda t: t.mul_(count))
    return count


def gate_of(gradient):
    gate = torch.ones(3)
    gate.grad = None if gradient is None else torch.tensor(gradient)
    return gate


def test_equal_tensors_have_that_mean(ranks):
    mean = mean_over_ranks(torch.tensor([1.0, -4.0]))
    assert mean.tolist() == [1, -4]


@pytest.mark.parametrize('flag', [True, False])
def test_what_holds_here_holds_on_equal_processes(ranks, flag):
    assert holds_on_all(flag, torch.device('cpu')) == flag


def test_a_gradient_without_the_factor_of_the_loss(ranks):
    gradient, usable = mean_gradient(gate_of([2.0, 4.0, -8.0]), 2.0)
    assert gradient.tolist() == [1, 2, -4]
    assert usable


@pytest.mark.parametrize('gradient', [None, [1.0, float('inf'), 0.0]])
def test_a_gradient_that_is_no_use(ranks, gradient):
    assert not mean_gradient(gate_of(gradient), 1.0)[1]


def test_processes_without_a_backward_count(monkeypatch):
    """One of two has none: the mean is half of the other's."""
    other = torch.tensor([2.0, 4.0, -8.0, 1.0])
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda: 2)
    monkeypatch.setattr(dist, 'all_reduce', lambda t: t.add_(other))
    gradient, usable = mean_gradient(gate_of(None), 1.0)
    assert gradient.tolist() == [1, 2, -4]
    assert usable
