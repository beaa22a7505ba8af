# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A part of the loss that nobody adds is noticed."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmlapp.core import Phase, PruningError, PruningWarning, attach
from mmlapp.core.methods.added_loss import AddedLoss

LOSSES = [('admm', 'l2'), ('soft', 'operation_aware')]


def test_each_step_wants_a_backward_through_it():
    part = AddedLoss('some')
    weight = torch.ones(2, requires_grad=True)
    for _ in range(2):
        loss = part.watch(weight.square().sum())
        with pytest.raises(PruningError, match='method some: its part'):
            part.check()
        (3 * loss + weight.sum()).backward()
        part.check()
    assert weight.grad.tolist() == [2 * (6 + 1)] * 2
    with pytest.raises(PruningError, match='Add pruner'):
        part.check()


def test_without_a_graph_none_comes():
    part = AddedLoss('some')
    assert float(part.watch(torch.ones(()))) == 1
    with pytest.raises(PruningError):
        part.check()


def test_a_copy_waits_on_its_own():
    part = AddedLoss('some')
    part.watch(torch.ones((), requires_grad=True)).backward()
    twin = copy.deepcopy(part)
    twin.check()
    part.check()


class Net(nn.Module):
    """A part may be computed anew in the backward."""

    def __init__(self, anew):
        super().__init__()
        self.anew = anew
        self.a = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.b = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        if self.anew:
            return self.b(checkpoint(self.a, x, use_reentrant=False))
        return self.b(self.a(x))


def train(model, images, scaled):
    """With clipping; a factor on the loss that is a power of two."""
    pruner = model.pruner
    pruner.begin({'flops': 0.5}, 12)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler('cpu', 256.0, enabled=scaled)
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(images).square().mean() + pruner.loss()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        pruner.step(scale)
    return model.state_dict()


@pytest.mark.parametrize(('method', 'score'), LOSSES)
@pytest.mark.parametrize('way', ['scaled', 'anew'])
def test_it_is_scaled_clipped_and_checkpointed_as_the_rest(
    images, method, score, way
):
    """Bit for bit what it is without."""
    models = [Net(False), Net(way == 'anew')]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        attach(model, images, method=method, score=score)
    expected = train(models[0], images, scaled=False)
    found = train(models[1], images, scaled=way == 'scaled')
    assert models[0].pruner.ratios()['flops'] <= 0.5
    for name, value in expected.items():
        # Statistics of a part that runs twice are taken twice.
        if 'running' in name or 'tracked' in name:
            continue
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(('method', 'score'), LOSSES)
def test_what_learns_nothing_is_refused_at_once(images, method, score):
    """Not in the first step, where the loss would be blamed."""
    model = Net(False)
    pruner = attach(model, images, method=method, score=score)
    model.a.requires_grad_(False)
    with (
        pytest.warns(PruningWarning, match='do not require'),
        pytest.raises(PruningError, match=f'{method}: none of the.*Unfreeze'),
    ):
        pruner.begin({'flops': 0.5}, 12)
    assert pruner.phase == Phase.DENSE
    model.a[1].requires_grad_(True)
    with pytest.warns(PruningWarning, match='do not require'):
        train(model, images, scaled=False)
    assert pruner.phase == Phase.FINISHED
