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


@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'Adafactor'])
@pytest.mark.parametrize('narrowed', [True, False])
def test_states_of_other_widths_are_named_at_the_first_step(
    model, images, planned, kind, narrowed
):
    """Loaded before narrowing, or after it; torch takes them."""

    def make(network):
        settings = dict(momentum=0.9) if kind == 'SGD' else {}
        return getattr(torch.optim, kind)(
            network.parameters(), lr=0.1, **settings
        )

    def stepped(network, optimizer):
        task_loss(network, images).backward()
        optimizer.step()
        optimizer.zero_grad()
        return optimizer.state_dict()

    slim = narrow(copy.deepcopy(model), planned)
    first, second = (model, slim) if narrowed else (slim, model)
    state = stepped(first, make(first))
    stepped(second, make(second))
    optimizer = make(second)
    optimizer.load_state_dict(state)
    task_loss(second, images).backward()
    before = copy.deepcopy(second.state_dict())
    with pytest.raises(PruningError, match=rf'{kind} has .* of b\.weight in'):
        optimizer.step()
    after = second.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    optimizer = make(first)
    optimizer.load_state_dict(state)
    stepped(first, optimizer)


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
