# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases, budget and state, whatever the method."""

import copy

import pytest
import torch
from pruning_steps import at_step, decide, kept_by_group, task_loss, train
from torch import nn

from mmlapp.core import Phase, PruningError, attach
from mmlapp.core.progress import Progress
from mmlapp.core.score import NORMALISATIONS


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


@pytest.mark.parametrize('normalisation', list(NORMALISATIONS))
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', ['a', 'c'])
def test_weights_that_are_not_finite(
    model, images, normalisation, value, name
):
    pruner = attach(model, images, normalisation=normalisation)
    pruner.begin({'flops': 0.5}, 10)
    train(model, images, 3)
    before = pruner.mask.clone()
    with torch.no_grad():
        parameter(model, f'{name}.weight')[2, 0, 1, 1] = value
    with pytest.raises(
        PruningError,
        match=rf'scores of {name} are not finite \(its weights are not '
        r'finite\) at step 4.*diverged',
    ):
        pruner.step()
    assert torch.equal(pruner.mask, before)


def test_a_score_that_is_not_finite(model, images):
    pruner = attach(model, images, score='taylor')
    pruner.begin({'flops': 0.5}, 10)
    task_loss(model, images).backward()
    parameter(model, 'b.weight').grad[0] = float('nan')
    with pytest.raises(
        PruningError, match=r'scores of b are not finite \(its weights are f'
    ):
        pruner.step()


def test_weights_that_are_not_finite_at_the_beginning(model, images, pruner):
    with torch.no_grad():
        parameter(model, 'b.weight').fill_(float('nan'))
    with pytest.raises(PruningError, match='scores of b are not finite'):
        pruner.begin({'flops': 0.5}, 10)


@pytest.mark.parametrize('target', [0, -1, 1.5, float('nan')])
def test_targets_outside_their_range(pruner, target):
    with pytest.raises(PruningError, match=r'target flops=.*\(0, 1\]'):
        pruner.begin({'flops': target}, 10)
    assert pruner.phase == Phase.DENSE


def test_a_target_below_the_reachable_minimum(pruner):
    """One channel in each of a, b and c."""
    positions = 4 * 8 * 8
    lowest = 9 * positions * (3 + 1 + 1 + 5) / pruner.cost('flops').dense
    with pytest.raises(
        PruningError, match=f'minimum of {lowest:.4f}.*Raise the target'
    ):
        pruner.begin({'flops': lowest * 0.9}, 10)
    assert pruner.phase == Phase.DENSE
    pruner.begin({'flops': lowest * 1.0001}, 10)
    pruner.finish()
    assert kept_by_group(pruner) == [1, 1, 1]


def test_a_divisor_at_the_end_of_the_phase(model, images):
    pruner = attach(model, images, divisor=4)
    pruner.begin({'flops': 0.6}, 1)
    pruner.step()
    kept = [int(part.sum()) for part in pruner.mask.split([8, 12, 16])]
    assert pruner.ratios()['flops'] <= 0.6
    assert all(count % 4 == 0 for count in kept)
    assert sum(kept) < 36


def test_the_minimum_with_a_divisor(model, images):
    pruner = attach(model, images, divisor=8)
    with pytest.raises(PruningError, match='reachable minimum'):
        pruner.begin(
            {'flops': 0.2}, 10
        )  # single channels would reach less than 0.1


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


@pytest.mark.parametrize('target', [1.0, 0.8, 0.45, 0.2])
def test_the_budget_is_kept(model, images, pruner, target):
    pruner.begin({'flops': target}, 12)
    train(model, images, 12)
    assert target - 0.05 < pruner.ratios()['flops'] <= target


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


def test_gradients_do_not_pile_up(model, images, pruner):
    pruner.begin({'flops': 0.5}, 10)
    train(model, images, 2)
    assert pruner.method.threshold.grad is None
    assert pruner.gate.grad is None


@pytest.mark.filterwarnings('ignore:step. the pruning phase has not')
@pytest.mark.parametrize('stepped', [True, False])
def test_what_came_before_the_phase_is_forgotten(
    model, images, pruner, stepped
):
    twin = copy.deepcopy(model)
    for _ in range(3):
        task_loss(model, images).backward()
        if stepped:
            pruner.step()
    for network in (model, twin):
        network.pruner.begin({'flops': 0.5}, 10)
        task_loss(network, images).backward()
    assert torch.equal(pruner.gate.grad, twin.pruner.gate.grad)


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


def test_masks_survive_another_memory_format(model, images, pruner):
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    found = model(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)
    assert pruner.phase == Phase.FINISHED


def test_scores_are_those_of_the_live_weights(model, images):
    """Mean over the layers of a group, each divided by its mean."""
    pruner = attach(model, images, score='l1', normalisation='mean')
    pruner.begin({'flops': 0.5}, 10)
    start = 0
    for info in pruner.groups:
        weight = parameter(model, f'{info.name}.weight').detach()
        raw = weight.abs().flatten(1).sum(1)
        found = pruner.scores[start : start + info.size]
        torch.testing.assert_close(found, raw / raw.mean())
        start += info.size


def test_scores_of_tied_layers_are_averaged(net, conv, image):
    model = net(
        lambda m, x: m.c(m.a(x) + m.b(x)),
        a=conv(3, 8),
        b=conv(3, 8),
        c=conv(8, 5),
    )
    pruner = attach(model, image, score='l2', normalisation='rank')
    pruner.begin({'flops': 0.5}, 10)
    ranks = []
    for name in 'ab':
        norms = parameter(model, f'{name}.weight').flatten(1).norm(dim=1)
        ranks.append((norms.argsort().argsort() + 0.5) / 8)
    order = sum(ranks).argsort(stable=True)
    assert torch.equal(pruner.scores[: len(pruner.gate)].argsort(), order)


def test_scores_ignore_the_mask(model, images, pruner):
    pruner.begin({'flops': 0.3}, 1)
    before = pruner.scores.clone()
    pruner.step()
    assert not pruner.mask.all()
    decide(pruner)
    assert torch.equal(pruner.scores, before)


def test_progress_is_read_without_asking_the_device(model, pruner):
    pruner.begin({'flops': 0.5}, 20)
    at_step(pruner, 7)
    model.to('meta')  # where nothing can be read
    assert pruner.phase == Phase.PRUNING
    assert pruner.progress == Progress(Phase.PRUNING, 7, 20, {'flops': 0.5})
    assert pruner.targets()['flops'] == pytest.approx(0.5 ** (7 / 16))


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


def test_masks_and_progress_are_taken_over(make, images, model, pruner):
    other = make()
    attach(other, images)
    pruner.begin({'flops': 0.5}, 4)
    train(model, images, 4)
    other.pruner.take_over(pruner)
    assert other.pruner.phase == Phase.FINISHED
    assert torch.equal(other.pruner.mask, pruner.mask)
    assert other.pruner.method.threshold is not pruner.method.threshold


def test_a_network_without_values_is_not_pruned(model, pruner):
    model.to('meta')
    with pytest.raises(PruningError, match='on the device meta, where nothi'):
        pruner.begin({'flops': 0.5}, 1)
