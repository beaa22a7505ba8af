# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Optimizers that were not told of a narrowing, or of another network."""

import copy

import pytest
import torch
from pruning_steps import task_loss
from torch import nn

from mmlapp.core import PruningError, attach, narrow
from mmlapp.core.narrowing.stale import remember


@pytest.fixture
def images(image):
    return image


@pytest.fixture
def planned(model, images):
    pruner = attach(model, images)
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()
    return pruner.plan()


@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'RMSprop'])
def test_an_optimizer_of_wide_parameters_cannot_step(
    model, images, planned, kind
):
    twin = copy.deepcopy(model)
    optimizer = getattr(torch.optim, kind)(model.parameters())
    other = getattr(torch.optim, kind)(twin.parameters())
    narrow(model, planned)
    task_loss(model, images).backward()
    with pytest.raises(
        PruningError,
        match=rf'{kind} still holds .*weight as .*plan, optimizer\)',
    ):
        optimizer.step()
    # Others go on, those of copies too.
    task_loss(twin, images).backward()
    other.step()
    getattr(torch.optim, kind)(model.parameters()).step()


def test_a_narrowed_optimizer_steps(model, images, planned):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    narrow(model, planned, optimizer)
    first = next(model.parameters())
    before = first.detach().clone()
    task_loss(model, images).backward()
    optimizer.step()
    assert not torch.equal(first, before)


@pytest.mark.parametrize('other', [None, 'optimizer', nn.Linear(2, 2)])
def test_an_optimizer_of_another_network_is_refused(model, planned, other):
    if isinstance(other, nn.Module):
        other = torch.optim.SGD(other.parameters(), 0.1)
    if other is None:
        other = [torch.optim.SGD(model.parameters(), 0.1)]
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningError, match=r'optimizer=.*or none'):
        narrow(model, planned, other)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_what_was_taken_back_may_be_stepped(model, images):
    """As a trial narrows and restores; or its network is gone."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    remember(model, {p: n for n, p in model.named_parameters()})
    task_loss(model, images).backward()
    optimizer.step()
    remember(nn.Linear(1, 1), {p: n for n, p in model.named_parameters()})
    optimizer.step()
