# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Scores and gradients that a decision is made from."""

import copy
from dataclasses import replace

import pytest
import torch
from pruning_steps import decide, task_loss, train

from mmlapp.core import PruningError, attach
from mmlapp.core.score import NORMALISATIONS
from mmlapp.core.score.base import FunctionScore


def parameter(model, name):
    """As it is stored: through its module it is read masked."""
    return dict(model.named_parameters())[name]


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


@pytest.mark.parametrize('set_to_none', [True, False])
def test_what_the_weights_forget_the_gate_forgets(
    model, images, pruner, set_to_none
):
    """As in a closure that runs again, or where a batch is passed over."""
    twin = copy.deepcopy(model)
    for network in (model, twin):
        network.pruner.begin({'flops': 0.5}, 10)
    task_loss(twin, images).backward()
    task_loss(model, 5 * images).backward()
    model.zero_grad(set_to_none)
    task_loss(model, images).backward()
    assert torch.equal(pruner.gate.grad, twin.pruner.gate.grad)


def test_gradients_of_several_batches_are_added(model, images, pruner):
    """As long as those of the weights are."""
    found = []
    pruner.begin({'flops': 0.5}, 10)
    for batches in ([0], [1], [0, 1]):
        model.zero_grad()
        for number in batches:
            task_loss(model, images + number).backward()
        found.append(pruner.gate.grad.clone())
    torch.testing.assert_close(found[2], found[0] + found[1])


def test_what_the_thresholds_learned_is_forgotten_too(model, images):
    """The optimizer evaluates the loss as often as it likes."""
    method = dict(type='lapp', update='gradient')
    attach(model, images, method=method)
    twin = copy.deepcopy(model)
    for network, count in ((model, 4), (twin, 1)):
        network.pruner.begin({'flops': 0.5}, 10)
        network.pruner.progress = replace(network.pruner.progress, done=5)
        for _ in range(count):
            network.zero_grad()
            loss = task_loss(network, images) + network.pruner.loss()
            loss.backward()
        assert network.pruner.method.threshold.grad.any()
        network.pruner.step()
    found, expected = (m.pruner.method.threshold for m in (model, twin))
    assert torch.equal(found, expected)
