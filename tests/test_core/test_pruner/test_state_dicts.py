# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is saved, loaded and moved, whatever the method."""

import copy

import pytest
import torch
from pruning_steps import at_step, task_loss, train
from torch import nn

from mmlapp.core import Phase, attach


def parameter(model, name):
    """As it is stored: through its module it is read masked."""
    return dict(model.named_parameters())[name]


def test_a_state_dict_continues_the_run(make, model, images, pruner):
    pruner.begin({'flops': 0.4}, 12)
    train(model, images, 6)
    fresh = make()
    attach(fresh, images)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images), model(images))
    for network in (model, fresh):
        train(network, images, 6)
    assert torch.equal(fresh.pruner.method.threshold, pruner.method.threshold)
    assert torch.equal(fresh.pruner.mask, pruner.mask)
    assert torch.equal(
        fresh.pruner.method.update.state, pruner.method.update.state
    )
    assert fresh.pruner.phase == Phase.FINISHED


@pytest.mark.parametrize('assign', [False, True])
@pytest.mark.parametrize('update', ['balance', 'gradient'])
def test_dense_weights_lack_nothing(make, images, update, assign):
    model, dense = make(), make().state_dict()
    method = dict(type='lapp', update=update)
    pruner = attach(model, images, method=method)
    before = copy.deepcopy(pruner.state_dict())
    learns = [buffer.requires_grad for buffer in pruner.buffers()]
    names = set(dense)
    model.load_state_dict(dense, assign=assign)
    assert set(dense) == names
    assert torch.equal(parameter(model, 'a.weight'), dense['a.weight'])
    for name, value in pruner.state_dict().items():
        assert torch.equal(value, before[name])
    assert [buffer.requires_grad for buffer in pruner.buffers()] == learns
    train_a_phase(model, images)


def train_a_phase(model, images):
    model.pruner.begin({'flops': 0.5}, 6)
    train(model, images, 6)
    assert model.pruner.phase == Phase.FINISHED


def test_dense_weights_that_lack_a_weight(make, model, pruner):
    dense = make().state_dict()
    del dense['b.weight']
    with pytest.raises(RuntimeError, match=r'Missing key.*: "b\.weight"\. $'):
        model.load_state_dict(dense)


def test_dense_weights_lack_what_a_phase_knows(make, images, model, pruner):
    """Else its masks would stay on weights that they were not made for."""
    pruner.begin({'flops': 0.5}, 4)
    for steps in (0, 4):
        train(model, images, steps)
        with pytest.raises(RuntimeError, match=r'Missing key.*pruner\.gate'):
            model.load_state_dict(make().state_dict())


def test_a_pruner_alone_needs_its_state(pruner):
    with pytest.raises(RuntimeError, match=r'Missing key.*gate'):
        pruner.load_state_dict({})


def test_dense_weights_do_not_activate_the_masks(make, model, pruner):
    """So that layers can still be initialised after they were loaded."""
    model.load_state_dict(make().state_dict(), strict=False)
    nn.init.zeros_(model.a.weight)
    assert (parameter(model, 'a.weight') == 0).all()


@pytest.mark.parametrize('move', ['double', 'half', 'bfloat16', 'float'])
def test_thresholds_learn_after_the_network_changed_its_type(
    model, images, pruner, move
):
    pruner.begin({'flops': 0.5}, 20)
    train(model, images, 4)
    before = pruner.method.threshold.clone(), pruner.ratios()
    getattr(model, move)()
    assert pruner.gate.is_leaf
    assert pruner.gate.requires_grad
    assert torch.equal(pruner.method.threshold, before[0])
    assert pruner.ratios() == before[1]
    assert pruner.scores.dtype == torch.float32
    dtype = parameter(model, 'a.weight').dtype
    task_loss(model, images.to(dtype)).backward()
    assert (pruner.gate.grad != 0).any()
    pruner.step()
    assert (pruner.method.threshold != before[0]).any()


def test_thresholds_move_with_the_network(model, pruner):
    pruner.begin({'flops': 0.5}, 20)
    model.to('meta')
    assert {b.device.type for b in pruner.buffers()} == {'meta'}
    assert pruner.gate.is_leaf
    model.to_empty(device='cpu')
    assert {b.device.type for b in pruner.buffers()} == {'cpu'}
    assert pruner.gate.is_leaf
    assert pruner.gate.requires_grad


def test_what_no_weights_bring_comes_back_from_meta(make, images, model):
    """Tables of costs are in no state dict, a gate in none that is dense."""
    dense = copy.deepcopy(model.state_dict())
    pruner = attach(model, images)
    other = make().to('meta')
    late = attach(other, images.to('meta'))
    twin = copy.deepcopy(other)
    twin.half().float()
    for network, state in ((other, dense), (twin, model.state_dict())):
        network.to_empty(device='cpu')
        network.load_state_dict(state)
    expected = dict(pruner.named_buffers())
    for found in (late, twin.pruner):
        for name, value in found.named_buffers():
            assert torch.equal(value, expected[name]), name
    for network in (model, other, twin):
        network.pruner.begin({'flops': 0.5}, 2)
        network.pruner.step()
    assert torch.equal(late.gate, pruner.gate)


def test_masks_survive_another_memory_format(model, images, pruner):
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    found = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    assert pruner.phase == Phase.FINISHED


def test_progress_travels_in_the_state_dict(make, images, model, pruner):
    pruner.begin({'flops': 0.5}, 20)
    at_step(pruner, 7)
    state = copy.deepcopy(model.state_dict())
    other = make()
    attach(other, images)
    other.load_state_dict(state)
    assert other.pruner.progress == pruner.progress
    del state['pruner.progress']
    with pytest.raises(RuntimeError, match=r'Missing key.*pruner\.progress'):
        other.load_state_dict(state)
    other.load_state_dict(state, strict=False)
    assert other.pruner.phase == Phase.PRUNING
