# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Thresholds: where they start, what moves them, where they end."""

import copy

import pytest
import torch
from pruning_steps import at_step, decide, kept_by_group, task_loss, train

from mmlapp.core import LAPP, PruningWarning, attach
from mmlapp.core.methods.lapp.surrogates import SURROGATES
from mmlapp.core.score import NORMALISATIONS


def test_masks_are_scores_above_thresholds(model, images, pruner):
    pruner.begin({'flops': 0.5}, 20)
    train(model, images, 10)
    above = pruner.scores > pruner.method.threshold[pruner.group]
    assert torch.equal(pruner.mask, above)


@pytest.mark.parametrize('normalisation', list(NORMALISATIONS))
@pytest.mark.parametrize('surrogate', list(SURROGATES))
@pytest.mark.parametrize(
    ('value', 'scale'), [(100.0, 1e-3), (-100.0, 1.0), (100.0, 1e3)]
)
def test_a_threshold_far_outside_comes_back(
    model, images, surrogate, value, normalisation, scale
):
    """Every group has a slope again: both losses can move it."""
    with torch.no_grad():
        for name in 'abcd':
            getattr(model, name).weight.mul_(scale)
    pruner = attach(
        model,
        images,
        method=dict(type='lapp', update='gradient', surrogate=surrogate),
        normalisation=normalisation,
    )
    pruner.begin({'flops': 0.5}, 10)
    with torch.no_grad():
        pruner.method.threshold.fill_(value)
    decide(pruner)
    for slope in pruner.method.slope.split(pruner.sizes):
        assert (slope > 0).any()
    at_step(pruner, 8)
    pruner.loss().backward()
    assert (pruner.method.threshold.grad != 0).all()


@pytest.mark.parametrize('surrogate', list(SURROGATES))
def test_a_stuck_threshold_is_moved_by_training(model, images, surrogate):
    pruner = attach(model, images, method=LAPP(surrogate=surrogate))
    pruner.begin({'flops': 0.5}, 200)
    with torch.no_grad():
        pruner.method.threshold.fill_(-100)
    at_step(pruner, 160)
    train(model, images, 30)
    assert pruner.ratios()['flops'] < 0.9


@pytest.mark.parametrize('value', [100.0, 0.999])
def test_a_narrowed_layer_keeps_its_best_channel(model, images, value):
    pruner = attach(model, images, min_keep=0)
    pruner.begin({'flops': 0.5}, 10)
    with torch.no_grad():
        pruner.method.threshold.fill_(value)
    decide(pruner)
    assert kept_by_group(pruner) == [1, 1, 1]
    sizes = pruner.sizes
    for scores, mask in zip(
        pruner.scores.split(sizes), pruner.mask.split(sizes), strict=True
    ):
        assert scores.argmax() == mask.int().argmax()


def test_a_layer_with_a_bypass_may_lose_all(model, images):
    pruner = attach(model, images, bypass='depthwise', unit='filters')
    pruner.begin({'flops': 0.5}, 10)
    with torch.no_grad():
        pruner.method.threshold.fill_(100)
    decide(pruner)
    assert set(kept_by_group(pruner)) == {0}
    assert model(images).isfinite().all()


def test_without_gradients_thresholds_rest(model, images, pruner):
    """Without a backward nothing is known."""
    pruner.begin({'flops': 0.5}, 10)
    before = pruner.method.threshold.clone()
    at_step(pruner, 8)
    pruner.step()
    assert torch.equal(pruner.method.threshold, before)


@pytest.mark.parametrize('update', ['balance', 'gradient'])
@pytest.mark.parametrize('scale', [2.0**10, 2.0**-4])
def test_the_scale_of_the_losses_is_taken_out(model, images, scale, update):
    found = []
    for factor in (1.0, scale):
        copied = copy.deepcopy(model)
        pruner = attach(copied, images, method=LAPP(update))
        pruner.begin({'flops': 0.5}, 10)
        at_step(pruner, 5)
        loss = task_loss(copied, images) + pruner.loss()
        (loss * factor).backward()
        pruner.step(loss_scale=factor)
        found.append(list(pruner.method.buffers()))
    torch.testing.assert_close(*found)


def test_overflown_gradients_move_nothing(model, images, pruner):
    """As a gradient scaler skips the optimizer's step."""
    pruner.begin({'flops': 0.5}, 10)
    before = (
        pruner.method.threshold.detach().clone(),
        pruner.method.update.state.clone(),
    )
    task_loss(model, images).backward()
    pruner.gate.grad[0] = float('inf')
    pruner.step()
    assert torch.equal(pruner.method.threshold, before[0])
    assert torch.equal(pruner.method.update.state, before[1])
    assert pruner.method.threshold.grad is None
    assert pruner.gate.grad is None


def test_only_the_gate_gets_a_gradient(model, images, pruner):
    """The rule `balance` pays for nothing else."""
    pruner.begin({'flops': 0.5}, 10)
    assert pruner.loss().item() == 0
    (task_loss(model, images) + pruner.loss()).backward()
    assert (pruner.gate.grad != 0).any()
    assert not pruner.method.threshold.requires_grad
    assert [b for b in pruner.buffers() if b.requires_grad] == [pruner.gate]


@pytest.mark.parametrize('layers', [1, 6])
def test_a_threshold_is_the_pruning_ratio(net, conv, image, layers):
    """However many layers share the group."""
    names = [f'x{i}' for i in range(layers)]
    model = net(
        lambda m, x: m.c(sum(getattr(m, n)(x) for n in names)),
        c=conv(16, 5),
        **{n: conv(3, 16) for n in names},
    )
    pruner = attach(model, image, score='l2', normalisation='rank', min_keep=0)
    pruner.begin({'flops': 0.5}, 10)
    for ratio in (0.25, 0.5, 0.75):
        with torch.no_grad():
            pruner.method.threshold.fill_(ratio)
        decide(pruner)
        assert kept_by_group(pruner) == [16 * (1 - ratio)]


def unrecorded(layer, x):
    with torch.no_grad():
        return layer(x)


# What keeps the loss from the layers of a branch.
SILENCERS = {
    'detached': lambda layer, x: layer(x).detach(),
    'without gradients': unrecorded,
    'times zero': lambda layer, x: layer(x) * 0,
    'unused': lambda layer, x: x.new_zeros(()) if layer(x) is None else 0,
}


@pytest.fixture(params=list(SILENCERS))
def half_silent(request, net, conv, image):
    """A network whose branch `side` the loss never reaches."""
    model = net(
        lambda m, x: (
            m.d(m.c(m.a(x).relu()).relu())
            + SILENCERS[request.param](m.out, m.side(m.a(x)).relu())
        ),
        a=conv(3, 24),
        c=conv(24, 32),
        d=conv(32, 5),
        side=conv(24, 40),
        out=conv(40, 5),
    )
    return model, image


@pytest.mark.parametrize('update', ['balance', 'gradient'])
def test_who_never_gets_a_gradient_does_not_pay(half_silent, update):
    model, image = half_silent
    pruner = attach(model, image, method=LAPP(update))
    pruner.begin({'flops': 0.6}, 20)
    with pytest.warns(
        PruningWarning, match=r'first 10 steps.* of side(, out)?: '
    ):
        train(model, image, 10)
    train(model, image, 9)
    kept = pruner.keep_ratios()
    assert kept['side'] == 1
    assert kept['a'] < 1
    if update == 'balance':
        assert pruner.ratios()['flops'] == pytest.approx(0.6, abs=0.02)
    # What the others cannot give is taken from it in the end.
    pruner.step()
    assert pruner.ratios()['flops'] <= 0.6


def test_a_group_that_is_heard_late_joins(net, conv, image):
    """A scale that starts at zero passes no gradient on at first."""
    model = net(
        lambda m, x: m.d(m.a(x).relu() + m.b(m.side(x).relu()) * m.scale),
        a=conv(3, 16),
        b=conv(16, 16),
        d=conv(16, 5),
        side=conv(3, 16),
        scale=torch.nn.Parameter(torch.zeros(1)),
    )
    pruner = attach(model, image)
    pruner.begin({'flops': 0.5}, 20)
    train(model, image, 1)
    assert pruner.method.heard.tolist() == [True, False]
    train(model, image, 19)
    assert pruner.method.heard.all()
    assert pruner.keep_ratios()['side'] < 1


def test_a_loss_that_no_group_hears(model, images, pruner):
    pruner.begin({'flops': 0.5}, 12)
    at_step(pruner, 9)
    with pytest.warns(PruningWarning, match=r'channels of a, b, c.*backward'):
        pruner.step()
    pruner.step()


@pytest.mark.parametrize('update', ['balance', 'gradient'])
def test_bounds_are_found_once_a_step(model, images, update, monkeypatch):
    pruner = attach(model, images, method=LAPP(update=update))
    pruner.begin({'flops': 0.5}, 10)
    found, bounds = [], LAPP.bounds

    def counted(lapp, pruner):
        found.append(bounds(lapp, pruner))
        return found[-1]

    monkeypatch.setattr(LAPP, 'bounds', counted)
    train(model, images, 3)
    assert len(found) == 3
    low, high = found[-1]
    assert (
        (low <= pruner.method.threshold) & (pruner.method.threshold <= high)
    ).all()
