# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Phases and scores, whatever the method."""

import copy

import pytest
import torch
from pruning_steps import decide, task_loss, train
from torch import nn

from mmlapp.core import Phase, PruningError, attach, narrow
from mmlapp.core.score import NORMALISATIONS
from mmlapp.core.score.base import FunctionScore


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
    def steepness(channels):
        gradient = channels.gradient
        found = channels.filters if gradient is None else gradient
        return found.abs().sum(1)

    pruner = attach(model, images, score=FunctionScore(steepness))
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


def test_a_divisor_at_the_end_of_the_phase(model, images):
    pruner = attach(model, images, divisor=4)
    pruner.begin({'flops': 0.6}, 1)
    pruner.step()
    kept = [int(part.sum()) for part in pruner.mask.split([8, 12, 16])]
    assert pruner.ratios()['flops'] <= 0.6
    assert all(count % 4 == 0 for count in kept)
    assert sum(kept) < 36


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
