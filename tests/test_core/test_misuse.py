# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Loops that forget something hear of it at the first moment possible."""

import math
import warnings

import pytest
import torch
from pruning_steps import task_loss, train
from torch import nn

from mmlapp.core import Phase, PruningError, PruningWarning, attach, narrow
from mmlapp.core.misuse import warn_of_frozen
from mmlapp.core.score.group_scores import GroupInfo, Layer

SHORT = 'a phase of steps='


@pytest.mark.parametrize(
    ('target', 'steps', 'needed'), [(0.5, 5, 6), (0.3, 9, 10), (0.1, 17, 18)]
)
def test_a_phase_too_short_for_its_target(pruner, target, steps, needed):
    """From the named length on, a step takes 15 % of what is left at most."""
    with pytest.warns(PruningWarning, match=rf'{SHORT}{steps} .*{needed} st'):
        pruner.begin({'parameters': 0.9, 'flops': target}, steps)
    pruner.reset()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pruner.begin({'parameters': 0.9, 'flops': target}, needed)
    shares, before = [], 1.0
    for done in range(1, needed + 1):
        now = target ** min(done / (0.8 * needed), 1)
        shares.append(1 - now / before)
        before = now
    assert 0.1 < max(shares) <= 0.15


def test_one_step_prunes_at_once(pruner):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pruner.begin({'flops': 0.5}, 1)
        pruner.step()
    assert pruner.plan().ratios()['flops'] <= 0.5


def test_frozen_weights_are_named_and_pruned(model, images):
    model.b.requires_grad_(False)
    pruner = attach(model, images, min_keep=0)
    with pytest.warns(PruningWarning, match=r"^b: .*ignore=\['b'\]"):
        pruner.begin({'flops': 0.5}, 10)
    train(model, images, 10)
    assert pruner.keep_ratios()['b'] < 1


def test_ignored_layers_need_no_gradient(model, images):
    model.b.requires_grad_(False)
    pruner = attach(model, images, ignore='b')
    pruner.begin({'flops': 0.6}, 10)
    assert list(pruner.keep_ratios()) == ['a', 'c']


def test_computed_weights_are_not_frozen():
    """As spectral normalisation computes them from others."""
    layer = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    found = Layer('a', layer, (0,), torch.arange(4))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_of_frozen([GroupInfo('a', 4, [found])])


def test_a_frozen_network_is_named(model, images, pruner):
    model.requires_grad_(False)
    with pytest.warns(PruningWarning, match='^a, b, c: .*cannot adapt'):
        pruner.begin({'flops': 0.5}, 10)


def test_a_plan_before_the_phase(pruner):
    with pytest.raises(PruningError, match=r'not begun. Call pruner.begin\('):
        pruner.plan()


@pytest.mark.parametrize('done', [0, 1, 9])
def test_a_plan_in_the_middle_of_the_phase(model, images, pruner, done):
    pruner.begin({'flops': 0.5}, 10)
    train(model, images, done)
    with pytest.raises(
        PruningError, match=rf"at step {done} of 10.*'flops': 0.5.*finish\(\)"
    ):
        pruner.plan()
    pruner.finish()
    assert pruner.plan().ratios()['flops'] <= 0.5


@pytest.mark.parametrize('phase', [False, True])
def test_a_mask_from_outside_can_be_planned(make, images, pruner, phase):
    if phase:
        pruner.begin({'flops': 0.5}, 10)
    mask = torch.ones_like(pruner.mask)
    pruner.set_mask(mask)
    assert pruner.plan().ratios()['flops'] == 1
    mask[0] = False
    pruner.set_mask(mask)
    assert pruner.plan().ratios()['flops'] < 1
    if phase:  # The next step decides anew.
        pruner.step()
        with pytest.raises(PruningError, match='at step 1 of 10'):
            pruner.plan()


def test_a_mask_from_outside_survives_a_checkpoint(make, model, images):
    attach(model, images)
    model.pruner.set_mask(torch.arange(36) % 3 > 0)
    other = make()
    attach(other, images).load_state_dict(model.pruner.state_dict())
    assert other.pruner.plan() == model.pruner.plan()


@pytest.mark.parametrize(
    ('mask', 'match'),
    [
        ([True] * 36, 'mask: expected one number .*; got list$'),
        (torch.ones(35), r'shape \(36,\); got Tensor of shape \(35,\)'),
        (torch.zeros(36), 'mask: keeps 0 channels of a, which needs 1'),
        (torch.full((36,), 0.5), 'mask: holds 0.5, and a channel is kept or'),
        (-torch.ones(36), 'mask: holds -1.0, and'),
        (torch.arange(36) + 1, 'mask: holds 2, and'),
        (torch.full((36,), math.nan), 'mask: holds nan, and'),
        (torch.ones(36, device='meta'), 'mask: it lies on the device meta'),
    ],
)
def test_masks_that_fit_no_network(pruner, mask, match):
    with pytest.raises(PruningError, match=match):
        pruner.set_mask(mask)
    assert pruner.mask.all()


def test_a_phase_begins_once(model, images, pruner):
    """As in a loop over epochs that begins in each of them."""
    pruner.begin({'flops': 0.5}, 10)
    train(model, images, 3)
    with pytest.raises(PruningError, match=r'step 3 of 10 .*only once.*reset'):
        pruner.begin({'flops': 0.5}, 10)
    assert pruner.progress.done == 3


def finished(pruner):
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()


def set_from_outside(pruner):
    mask = torch.ones(36, dtype=torch.bool)
    mask[:3] = False
    pruner.set_mask(mask)


@pytest.mark.parametrize('remove', [finished, set_from_outside])
def test_a_phase_brings_no_channels_back(pruner, remove):
    remove(pruner)
    before = pruner.mask.clone()
    gone = int((~before).sum())
    match = rf'begin: {gone} of 36 channels are .*narrow.*attach.*reset'
    with pytest.raises(PruningError, match=match):
        pruner.begin({'flops': 0.4}, 5)
    assert torch.equal(pruner.mask, before)
    pruner.reset()
    pruner.begin({'flops': 0.4}, 5)
    assert pruner.mask.all()


def test_a_finished_network_that_is_loaded_begins_no_phase(
    make, images, pruner, model
):
    finished(pruner)
    other = attach(make(), images)
    other.load_state_dict(pruner.state_dict())
    with pytest.raises(PruningError, match='channels are removed'):
        other.begin({'flops': 0.5}, 5)


def test_a_phase_that_removed_nothing_is_followed_by_another(pruner):
    pruner.begin({'flops': 1.0}, 1)
    pruner.step()
    pruner.begin({'flops': 0.5}, 5)
    assert pruner.phase == Phase.PRUNING


CALLS = {
    'begin': lambda pruner: pruner.begin({'flops': 0.5}, 5),
    'finish': lambda pruner: pruner.finish(),
    'set_mask': lambda pruner: pruner.set_mask(pruner.mask),
}


@pytest.mark.parametrize('call', CALLS)
def test_after_narrowing_a_pruner_prunes_nothing(model, pruner, call):
    finished(pruner)
    narrow(model, pruner.plan())
    with pytest.raises(PruningError, match=f'{call}: .*narrowed.*attach ag'):
        CALLS[call](pruner)
    pruner.step()  # as loops over the rest of the training do


def test_a_phase_does_not_go_on_after_narrowing(model, pruner):
    set_from_outside(pruner)
    plan = pruner.plan()
    pruner.reset()
    pruner.begin({'flops': 0.5}, 5)
    narrow(model, plan)
    with pytest.raises(PruningError, match=r'step: .*narrowed.*attach aga'):
        pruner.step()


def test_steps_before_the_phase_are_said_once(pruner):
    with pytest.warns(PruningWarning, match=r'step: .*pruner.begin\(target'):
        pruner.step()
    pruner.step()


@pytest.mark.parametrize('scale', [0.0, -1.0, float('nan'), None])
def test_factors_on_the_loss_are_positive(pruner, scale):
    with pytest.raises(PruningError, match=f'loss_scale={scale}'):
        pruner.step(scale)


def loop(model, images, steps, accumulated=1):
    """A loop that never steps the pruner."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(steps):
        for _ in range(accumulated):
            task_loss(model, images).backward()
        optimizer.step()
        optimizer.zero_grad()
    model(images)


@pytest.mark.parametrize('training', [True, False])
def test_a_forgotten_step_is_said(model, images, pruner, training):
    """Also where norms are in evaluation mode, as in fine-tuning."""
    model.train(training)
    pruner.begin({'flops': 0.5}, 40)
    loop(model, images, 29)
    with pytest.warns(PruningWarning, match='changed 30 times .*every optim'):
        loop(model, images, 1)
    loop(model, images, 20)
    with pytest.raises(PruningError, match='at step 0 of 40'):
        pruner.plan()


def test_accumulated_gradients_are_no_forgotten_step(model, images, pruner):
    pruner.begin({'flops': 0.5}, 40)
    for _ in range(3):
        loop(model, images, 1, accumulated=20)
        pruner.step()
    loop(model.eval(), images, 20)


def test_an_optimizer_that_searches_is_no_forgotten_step(
    model, images, pruner
):
    """It moves the weights and evaluates the loss many times in a step."""
    pruner.begin({'flops': 0.5}, 40)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.01, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = task_loss(model, images)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
        pruner.step()


def test_outside_the_phase_nobody_waits_for_a_step(model, images, pruner):
    loop(model, images, 12)
    pruner.begin({'flops': 0.5}, 1)
    pruner.step()
    assert pruner.phase == Phase.FINISHED
    loop(model, images, 12)


@pytest.mark.parametrize('steps', [3, 30, 300])
@pytest.mark.parametrize(
    'asks', [dict(score='taylor'), dict(method='uniform', protect=0.2)]
)
def test_a_loss_that_says_nothing_is_named_once(model, images, asks, steps):
    pruner = attach(model, images, **{'method': 'ranking', **asks})
    pruner.begin({'flops': 0.9}, steps)
    told = min(steps, max(10, steps // 10))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(told - 1):
            pruner.step()
    text = rf'first {told} steps .* no gradient by any channel, .*backward'
    with pytest.warns(PruningWarning, match=text):
        pruner.step()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(3):
            pruner.step()


def test_one_gradient_is_enough_to_say_something(model, images):
    pruner = attach(model, images, method='ranking', score='taylor')
    pruner.begin({'flops': 0.9}, 20)
    task_loss(model, images).backward()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(20):
            pruner.step()


@pytest.mark.parametrize('late', [False, True])
def test_an_optimizer_from_before_the_branches_were_added(
    model, images, recwarn, late
):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    pruner = attach(model, images, bypass='depthwise')
    if late:
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
    pruner.begin({'flops': 0.8}, 20)
    for _ in range(20):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
        pruner.step()
    told = [str(w.message) for w in recwarn if 'bypass of' in str(w.message)]
    assert len(told) == (not late)
    assert all('in 10 steps no optimizer changed it' in text for text in told)


def loop_of_steps(model, images, count, often=1, every=1, optimizer=None):
    """Steps the pruner a number of times after each of the optimizer."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.01)
    for batch in range(count):
        task_loss(model, images).backward()
        if batch % every == every - 1:
            optimizer.step()
            optimizer.zero_grad()
        for _ in range(often):
            model.pruner.step()


@pytest.mark.parametrize(
    ('often', 'every'), [(2, 1), (5, 1), (1, 2), (1, 4), (2, 8)]
)
@pytest.mark.parametrize('method', ['lapp', 'uniform'])
def test_more_steps_than_the_optimizer_takes(
    model, images, method, often, every
):
    """Twice in a loop, or at every batch of which several accumulate."""
    pruner = attach(model, images, method=method)
    pruner.begin({'flops': 0.5}, 60)
    text = r'before \d+ of \d+ steps .* no weight changed, .* once after every'
    with pytest.warns(PruningWarning, match=text) as told:
        loop_of_steps(model, images, 60 // often, often, every)
    assert len(told) == 1
    assert pruner.phase == Phase.FINISHED


@pytest.mark.parametrize('optimizer', ['SGD', 'AdamW', 'Adagrad', 'NAdam'])
@pytest.mark.parametrize(
    'settings', [{}, {'foreach': True}, {'foreach': False}, {'fused': True}]
)
def test_steps_of_both_are_as_they_should_be(
    model, images, pruner, settings, optimizer
):
    if optimizer == 'NAdam' and 'fused' in settings:
        pytest.skip('torch has none')
    kind = getattr(torch.optim, optimizer)
    pruner.begin({'flops': 0.5}, 40)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loop_of_steps(
            model, images, 40, optimizer=kind(model.parameters(), **settings)
        )


def test_steps_that_a_scaler_skips_are_no_mistake(model, images):
    """Nor is a network that is not trained at all."""
    pruner = attach(model, images, method='uniform')
    pruner.begin({'flops': 0.5}, 120)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loop_of_steps(model, images, 9, every=100)
        loop_of_steps(model, images, 40)
        for _ in range(10):
            loop_of_steps(model, images, 3)
            pruner.step()  # the optimizer did not
        pruner.finish()
        pruner.reset()
        pruner.begin({'flops': 0.5}, 40)
        for _ in range(40):
            pruner.step()


def test_a_new_phase_counts_anew(model, images, pruner):
    for _ in range(2):
        pruner.begin({'flops': 1.0}, 30)
        with pytest.warns(PruningWarning, match='no weight changed'):
            loop_of_steps(model, images, 15, often=2)
