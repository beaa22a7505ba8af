# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases, whatever the method."""

import copy

import pytest
import torch
from pruning_steps import task_loss, train
from torch import nn

from mmlapp.core import Phase, PruningError, attach, narrow


def parameter(model, name):
    """As it is stored: through its module it is read masked."""
    return dict(model.named_parameters())[name]


def test_phases(model, images, pruner):
    assert pruner.phase == Phase.DENSE
    assert pruner.targets() == {}
    assert pruner.ratios() == {'flops': 1, 'parameters': 1}
    pruner.begin({'flops': 0.5}, steps=6)
    assert pruner.phase == Phase.PRUNING
    assert pruner.targets() == {'flops': 1}
    train(model, images, 5)
    assert pruner.phase == Phase.PRUNING
    assert pruner.targets()['flops'] == pytest.approx(0.5)
    train(model, images, 1)
    assert pruner.phase == Phase.FINISHED
    assert 0.4 < pruner.ratios()['flops'] <= 0.5


@pytest.mark.parametrize('update', ['balance', 'gradient'])
def test_a_phase_that_was_reset_is_like_the_first_one(images, model, update):
    method = dict(type='lapp', update=update)
    pruner = attach(model, images, method=method)
    fresh = copy.deepcopy(model)
    pruner.begin({'flops': 0.3}, 9)
    train(model, images, 4)
    model.pruner.reset()
    assert pruner.phase == Phase.DENSE
    assert pruner.ratios() == {'flops': 1, 'parameters': 1}
    names = dict(model.named_parameters())
    fresh.load_state_dict({**fresh.state_dict(), **names})
    for each in (model, fresh):
        each.pruner.begin({'flops': 0.5}, 5)
        torch.manual_seed(0)
        train(each, images, 5)
    assert torch.equal(pruner.gate, fresh.pruner.gate)
    for name, value in fresh.pruner.state_dict().items():
        assert torch.equal(pruner.state_dict()[name], value), name


def test_nothing_is_pruned_at_the_beginning(pruner):
    pruner.begin({'flops': 0.5}, 10)
    assert pruner.mask.all()
    assert set(pruner.keep_ratios().values()) == {1}


def test_a_dense_network_computes_as_before(model, images):
    expected = model(images)
    attach(model, images)
    assert torch.equal(model(images), expected)


def test_outside_the_phase_the_loss_is_zero(pruner):
    assert pruner.loss().item() == 0
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()
    assert pruner.phase == Phase.FINISHED
    assert pruner.loss().item() == 0


@pytest.mark.parametrize('divisor', [0, -8, 2.0, '8'])
def test_a_divisor_out_of_range(model, images, divisor):
    with pytest.raises(PruningError, match=f'divisor={divisor!r}'):
        attach(model, images, divisor=divisor)


def test_a_phase_without_steps(pruner):
    with pytest.raises(PruningError, match='steps=0'):
        pruner.begin({'flops': 0.5}, 0)
    assert pruner.phase == Phase.DENSE


def test_finish_before_begin(pruner):
    with pytest.raises(PruningError, match='has not begun'):
        pruner.finish()


def test_a_mask_from_outside_stays_when_finish_is_called(pruner):
    given = torch.arange(36) % 2 == 0
    pruner.set_mask(given, {'flops': 0.9})
    pruner.finish()
    assert torch.equal(pruner.mask, given)
    assert pruner.progress.target == {'flops': 0.9}


def test_after_the_phase_masks_stay(model, images, pruner):
    pruner.begin({'flops': 0.5}, 4)
    train(model, images, 4)
    before = pruner.mask.clone(), pruner.method.threshold.detach().clone()
    train(model, images, 5)
    assert torch.equal(pruner.mask, before[0])
    assert torch.equal(pruner.method.threshold, before[1])


def test_removed_channels_get_no_gradient(model, images, pruner):
    pruner.begin({'flops': 0.3}, 1)
    pruner.step()
    task_loss(model, images).backward()
    weight = parameter(model, 'c.weight')
    sizes = pruner.sizes
    kept = pruner.mask.split(sizes)[2]
    gradient = weight.grad.flatten(1).abs().sum(1)
    assert (gradient[~kept] == 0).all()
    assert (gradient[kept] > 0).any()


def test_a_masked_network_is_not_compiled_from_its_source(images):
    """A narrow one is."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, images)
    with pytest.raises(PruningError, match=r'torch\.jit\.script: .*narrow'):
        torch.jit.script(model)
    mask = torch.arange(8) < 5
    pruner.set_mask(mask)
    expected = model(images)
    narrow(model, pruner.plan())
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(images), expected)
