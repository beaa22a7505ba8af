# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Ranked to the target at once, with gates that fall faster and faster."""

import pytest
import torch
from pruning_steps import train

from mmlapp.core import Phase, PruningError, StableEnd, attach
from mmlapp.core.methods.budget import first_fitting
from mmlapp.core.methods.channel_costs import COST_TERMS
from mmlapp.core.pruner.stability import NEAR

TARGET = {'flops': 0.4}
SLOW = dict(type='growing', gone=1.0)


@pytest.fixture
def begun(model, images):
    """Makes a phase."""

    def make(steps, end=None, shrink=None, **settings):
        pruner = attach(
            model,
            images,
            method=dict(type='one_cycle', **settings),
            normalisation='mean',
            shrink=shrink,
        )
        pruner.begin(TARGET, steps, end=end)
        return pruner

    return make


def expected_mask(pruner, gate, cost):
    """What a ranking keeps of a network with this gate."""
    now = pruner.gate.detach().clone()
    with torch.no_grad():
        pruner.gate.copy_(gate)
        importance = pruner.scores
        if cost is not None:
            importance = COST_TERMS[cost](pruner, importance)
        pruner.gate.copy_(now)
    return first_fitting(
        pruner.budget(TARGET), importance * gate, pruner.group, pruner.floors
    )


@pytest.mark.parametrize('cost', ['softmax', 'divide', None])
def test_it_ranks_what_is_left_down_to_the_target(model, images, begun, cost):
    pruner = begun(90, shrink=SLOW, interval=3, cost=cost)
    kept, changes = torch.ones(36).bool(), 0
    for step in range(1, 20):
        gate = pruner.gate.detach().clone()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        train(model, images, 1)
        if step % 3 == 0:
            former, kept = kept, expected_mask(pruner, gate, cost)
            changes += not torch.equal(former, kept)
        assert torch.equal(pruner.mask, kept)
        assert pruner.mask.all() or pruner.ratios()['flops'] <= 0.4
    assert changes > 1


def test_what_is_condemned_first_is_gone_after_its_share(begun):
    pruner = begun(100, shrink=dict(type='growing', gone=0.3))
    for _ in range(29):
        pruner.step()
    assert ((pruner.gate > 0) & (pruner.gate < 1)).any()
    pruner.step()
    assert set(pruner.gate.tolist()) == {0, 1}


def test_a_stable_end_says_when_it_ranks(model, images, begun):
    """The epoch of the end, unless an interval is given."""
    pruner = begun(20, end=StableEnd(epoch=5))
    train(model, images, 4)
    assert pruner.mask.all()
    train(model, images, 1)
    assert not pruner.mask.all()


def test_without_an_epoch_it_ranks_after_every_step(model, images, begun):
    pruner = begun(20)
    train(model, images, 1)
    assert not pruner.mask.all()


def test_the_phase_ends_when_rankings_agree_and_all_is_gone(begun):
    """Weights rest: at the first epoch's end behind T = 20 steps."""
    pruner = begun(40, end=StableEnd(epoch=3))
    gates = []
    while pruner.phase == Phase.PRUNING:
        gates.append(pruner.gate.detach().clone())
        pruner.step()
    assert pruner.progress.done == 21
    assert ((gates[-2] > 0) & (gates[-2] < 1)).any()
    assert 0.4 / NEAR < pruner.ratios()['flops'] <= 0.4


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        (dict(interval=0), 'one_cycle interval=0: expected a whole number'),
        (dict(interval=2.5), r'one_cycle interval=2\.5: expected a whole'),
        (dict(cost='linear'), "cost='linear' is unknown"),
        (dict(steps=3), "steps=3: method='one_cycle' has no such argument"),
    ],
)
def test_settings_out_of_range(model, images, settings, text):
    with pytest.raises(PruningError, match=text):
        attach(model, images, method=dict(type='one_cycle', **settings))


def test_scores_below_zero_do_not_shrink(model, images):
    method = dict(type='one_cycle', cost=None)
    pruner = attach(model, images, method=method, normalisation='std')
    with pytest.raises(PruningError, match=r'one_cycle: .*below zero.*mean'):
        pruner.begin(TARGET, 20)
    assert pruner.phase == Phase.DENSE


def test_a_phase_that_is_too_short_to_be_ranked(model, images):
    pruner = attach(model, images, method=dict(type='one_cycle', interval=9))
    with pytest.raises(PruningError, match='interval=9: a phase of 8 steps'):
        pruner.begin(TARGET, 8)
    assert pruner.phase == Phase.DENSE
    pruner.begin(TARGET, 9)
