# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Both losses by autograd, and an optimizer for the thresholds."""

import copy

import pytest
import torch
from pruning_steps import at_step, task_loss, train

from mmlapp.core import LAPP, PruningError, attach


@pytest.fixture
def pruner(model, images):
    return attach(model, images, method=LAPP('gradient'))


def test_the_flops_loss_alone_reaches_every_threshold(pruner):
    pruner.begin({'flops': 0.5}, 10)
    at_step(pruner, 8)
    pruner.loss().backward()
    # a higher threshold costs fewer FLOPs
    assert (pruner.method.threshold.grad < 0).all()
    assert pruner.gate.grad is None


def test_the_flops_loss_leaves_the_weights_alone(model, pruner):
    pruner.begin({'flops': 0.5}, 10)
    at_step(pruner, 8)
    pruner.loss().backward()
    assert all(p.grad is None for p in model.parameters())


def test_gradient_of_the_flops_loss_by_hand(pruner):
    """The chain: penalty, ratio, table, mask, surrogate."""
    pruner.begin({'flops': 0.5}, 10)
    at_step(pruner, 8)
    pruner.loss().backward()
    mask = pruner.mask.double().requires_grad_()
    ratio = pruner.cost('flops')(mask) / pruner.cost('flops').dense
    (by_mask,) = torch.autograd.grad(ratio, mask)
    # far from the target the penalty is |log ratio|
    by_channel = -by_mask / ratio.detach() * pruner.method.slope
    expected = torch.zeros(3).double()
    expected.index_add_(0, pruner.group, by_channel)
    torch.testing.assert_close(pruner.method.threshold.grad, expected.float())


def test_the_loss_vanishes_at_the_target(pruner):
    pruner.begin({'flops': 0.5}, 10)
    assert pruner.loss().item() == pytest.approx(0, abs=1e-6)


def test_a_step_without_momentum_in_closed_form(model, images, pruner):
    """T <- t - rate / steps (dL_task/dt + dL_cost/dt), both by hand."""
    pruner.begin({'flops': 0.5}, 50)
    train(model, images, 9)  # into the range of the scores
    at_step(pruner, 40)
    method = pruner.method
    loss = task_loss(model, images)
    (loss + pruner.loss()).backward()
    before = method.threshold.detach().clone()
    by_channel = -method.slope * pruner.gate.grad
    task = torch.zeros(3).index_add(0, pruner.group, by_channel)
    assert (task != 0).all()
    expected = before - 5 / 50 * (task + method.threshold.grad)
    pruner.step()
    torch.testing.assert_close(method.threshold.detach(), expected)


def test_the_balance_of_the_losses(make, images):
    """Twice the weight, twice the gradient of the constraint."""
    model, found = make(), []
    for weight in (1.0, 2.0):
        pruner = attach(
            copy.deepcopy(model),
            images,
            method=LAPP(dict(type='gradient', cost_weight=weight)),
        )
        pruner.begin({'flops': 0.5}, 10)
        at_step(pruner, 8)
        pruner.loss().backward()
        found.append(pruner.method.threshold.grad)
    torch.testing.assert_close(found[1], 2 * found[0])


def test_a_loss_that_was_not_added(model, images, pruner):
    pruner.begin({'flops': 0.5}, 10)
    task_loss(model, images).backward()
    with pytest.raises(PruningError, match=r'Add pruner.loss\(\) to the task'):
        pruner.step()


@pytest.mark.parametrize(
    'settings',
    [
        dict(momentum=0.9),
        dict(optimizer='Adam', rate=1.0),
        dict(optimizer='RMSprop', rate=0.5),
    ],
)
@pytest.mark.parametrize('assign', [False, True])
def test_a_state_dict_continues_with_the_optimizer(
    make, images, settings, assign
):
    method = dict(type='lapp', update=dict(type='gradient', **settings))
    model, fresh = make(), make()
    for network in (model, fresh):
        attach(network, images, method=method)
    model.pruner.begin({'flops': 0.4}, 12)
    train(model, images, 6)
    fresh.load_state_dict(copy.deepcopy(model.state_dict()), assign=assign)
    for network in (model, fresh):
        train(network, images, 6)
    assert 0.3 < model.pruner.ratios()['flops'] <= 0.4
    pairs = zip(model.pruner.buffers(), fresh.pruner.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    optimizer = [
        value
        for name, value in model.pruner.method.named_buffers()
        if 'optimizer_' in name
    ]
    assert optimizer
    assert all(value.any() for value in optimizer)


@pytest.mark.parametrize(
    'settings',
    [
        dict(momentum=0.9, dampening=0.5),
        dict(optimizer='NAdam'),
        dict(optimizer='Rprop'),
        dict(optimizer='Adagrad', initial_accumulator_value=0.1),
    ],
)
def test_the_optimizer_steps_as_torch_does(
    make, images, monkeypatch, settings
):
    """One optimizer that lives on, with a state that starts as torch's."""
    method = dict(type='lapp', update=dict(type='gradient', **settings))
    pruner = attach(make(), images, method=method)
    lapp, gradients = pruner.method, torch.randn(2, 6, 3)
    kind = getattr(torch.optim, settings.get('optimizer', 'SGD'))
    rest = {k: v for k, v in settings.items() if k != 'optimizer'}
    # A second phase owes nothing to the first, which is taken back.
    for phase in gradients:
        pruner.reset()
        pruner.begin({'flops': 0.5}, 6)
        expected = lapp.threshold.detach().clone().requires_grad_()
        optimizer = kind([expected], lr=5 / 6, **rest)
        for gradient in phase:
            zero = torch.zeros_like(gradient)
            monkeypatch.setattr(
                lapp.update, '_task_gradient', lambda *args, zero=zero: zero
            )
            lapp.threshold.grad, expected.grad = gradient.clone(), gradient
            lapp.heard.fill_(True)
            with torch.no_grad():
                lapp.update.move(lapp, pruner, lapp.bounds(pruner))
            optimizer.step()
        torch.testing.assert_close(lapp.threshold, expected)
        pruner.finish()


@pytest.mark.parametrize(
    ('settings', 'match'),
    [
        (dict(rate=0), 'rate=0'),
        (dict(rate='1'), "rate='1'"),
        (dict(cost_weight=True), 'cost_weight=True'),
        (dict(cost_weight=-1), 'cost_weight=-1'),
        (dict(optimizer='Best'), "optimizer='Best'"),
    ],
)
def test_settings_out_of_range(settings, match):
    with pytest.raises(PruningError, match=match):
        LAPP(dict(type='gradient', **settings))


@pytest.mark.parametrize(
    ('settings', 'match'),
    [
        (dict(beta=1), "optimizer='SGD' with {'beta': 1}"),
        (dict(optimizer='LBFGS'), "optimizer='LBFGS'.*closure"),
        (dict(optimizer='SparseAdam'), "optimizer='SparseAdam'.*dense"),
    ],
)
def test_what_no_optimizer_of_thresholds_takes(model, images, settings, match):
    method = LAPP(dict(type='gradient', **settings))
    with pytest.raises(PruningError, match=match):
        attach(model, images, method=method)
    assert not hasattr(model, 'pruner')
