# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One order of all channels, against sorted lists."""

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from pruning_steps import kept_by_group, train

from mmlapp.core import Phase, PruningError, attach
from mmlapp.core.methods.channel_costs import COST_TERMS
from mmlapp.core.methods.ranking import Ranking
from mmlapp.core.progress import Progress
from mmlapp.core.score.base import FunctionScore

# Of the groups of the shared network: a, b and c.
WIDTHS = 8, 12, 16
GROUP = [g for g, width in enumerate(WIDTHS) for _ in range(width)]


def ranking(**settings):
    return dict(type='ranking', **settings)


def constant(value):
    return FunctionScore(lambda channels: channels.filters[:, 0] * 0 + value)


def ratio(kept):
    """Share of the network's multiply-adds that some channels need."""
    a, b, c = (sum(GROUP[i] == g for i in kept) for g in range(3))
    x, y, z = WIDTHS
    dense = 3 * x + x * y + y * z + 5 * z
    return (3 * a + a * b + b * c + 5 * c) / dense


def best_that_fit(importance, target, floors=(1, 1, 1)):
    """The longest beginning of the order that fits, and the floors."""
    order = sorted(range(36), key=lambda i: -float(importance[i]))
    always = {
        i
        for g, floor in enumerate(floors)
        for i in [i for i in order if GROUP[i] == g][:floor]
    }
    beginnings = [{*order[:n]} | always for n in range(37)]
    return [kept for kept in beginnings if ratio(kept) <= target][-1]


def kept_by(pruner):
    return {i for i, lives in enumerate(pruner.mask.tolist()) if lives}


@pytest.mark.parametrize('normalisation', ['none', 'mean', 'rank'])
@pytest.mark.parametrize('min_keep', [0, 0.25])
def test_all_channels_stand_in_one_order(
    model, images, normalisation, min_keep
):
    pruner = attach(
        model,
        images,
        method='ranking',
        normalisation=normalisation,
        min_keep=min_keep,
    )
    pruner.begin({'flops': 0.3}, 12)
    for _ in range(11):
        train(model, images, 1)
        expected = best_that_fit(
            pruner.scores, pruner.targets()['flops'], pruner.floors
        )
        assert kept_by(pruner) == expected


@pytest.mark.parametrize('cost', ['divide', 'softmax'])
def test_the_order_is_that_of_the_cost_term(model, images, cost):
    """With what channels cost beside those that live before the step."""
    pruner = attach(
        model, images, method=ranking(cost=cost), normalisation='none'
    )
    pruner.begin({'flops': 0.3}, 12)
    for _ in range(11):
        before = pruner.gate.detach().clone()
        train(model, images, 1)
        target, kept = pruner.targets()['flops'], kept_by(pruner)
        with torch.no_grad():
            pruner.gate.copy_(before)
        importance = COST_TERMS[cost](pruner, pruner.scores)
        assert kept == best_that_fit(importance, target)
        with torch.no_grad():
            pruner.gate.copy_(torch.tensor([i in kept for i in range(36)]))


def test_of_equally_important_channels_the_dearest_go_first(model, images):
    """Dense, a channel of a costs 3 + 12, of b 8 + 16, of c 12 + 5."""
    pruner = attach(
        model,
        images,
        method=ranking(steps=1, cost='divide'),
        score=constant(1.0),
        normalisation='none',
    )
    pruner.begin({'flops': 0.6}, 10)
    train(model, images, 8)
    # 3 * 8 + 8 b + 16 b + 5 * 16 <= 0.6 * 392 leaves room for five.
    assert kept_by_group(pruner) == [8, 5, 16]


@pytest.mark.parametrize('times', [1, 2, 3, 7, 16])
def test_it_ranks_evenly_until_the_target_is_reached(model, images, times):
    """Of 20 steps the schedule takes 16; the rest changes nothing."""
    pruner = attach(model, images, method=ranking(steps=times))
    pruner.begin({'flops': 0.3}, 20)
    when = {math.ceil(Fraction(16 * k, times)) for k in range(1, times + 1)}
    kept = set(range(36))
    for step in range(1, 20):
        train(model, images, 1)
        if step in when:
            kept = best_that_fit(pruner.scores, pruner.targets()['flops'])
        assert kept_by(pruner) == kept
    assert pruner.ratios()['flops'] <= 0.3


@pytest.mark.parametrize('steps', [1, 7, 24, 35, 1000])
@pytest.mark.parametrize('times', [1, 2, 5])
def test_rankings_of_phases_of_any_length(steps, times):
    ramp = math.ceil(Fraction(4, 5) * steps)
    method = Ranking(steps=min(times, ramp))
    found = [
        done
        for done in range(1, steps + 1)
        if method.is_due(
            SimpleNamespace(progress=Progress(Phase.PRUNING, done, steps))
        )
    ]
    assert len(found) == method.steps
    assert found[-1] == ramp


def test_the_budget_takes_the_order_of_the_last_ranking(model, images):
    """Weights may change after it; the kept channels do not."""
    pruner = attach(model, images, method=ranking(steps=1))
    pruner.begin({'flops': 0.5}, 10)
    train(model, images, 8)
    kept = kept_by(pruner)
    with torch.no_grad():
        for name in 'abc':
            weight = model.get_submodule(name)._parameters['weight']
            weight.copy_(torch.rand_like(weight))
    train(model, images, 2)
    assert pruner.phase == Phase.FINISHED
    # What room is left may be filled.
    assert kept <= kept_by(pruner)


@pytest.mark.parametrize('times', [0, -1, 2.0, True, '3'])
def test_a_number_of_rankings_out_of_range(model, images, times):
    with pytest.raises(PruningError, match=f'ranking steps={times!r}: expec'):
        attach(model, images, method=ranking(steps=times))


def test_an_unknown_term_of_the_cost(model, images):
    with pytest.raises(
        PruningError, match=r"cost='linear' is unknown; .*soft"
    ):
        attach(model, images, method=ranking(cost='linear'))


def test_more_rankings_than_steps(model, images):
    pruner = attach(model, images, method=ranking(steps=9))
    text = r'ranking steps=9: a phase of 10 steps reaches its target after 8'
    with pytest.raises(PruningError, match=text):
        pruner.begin({'flops': 0.5}, 10)
    assert pruner.phase == Phase.DENSE
    pruner.begin({'flops': 0.5}, 12)


@pytest.mark.parametrize('cost', ['divide', 'softmax'])
def test_a_normalisation_below_zero_has_no_cost(model, images, cost):
    with pytest.raises(PruningError, match=f"cost='{cost}': .*'mean'"):
        attach(model, images, method=ranking(cost=cost), normalisation='std')
    assert not hasattr(model, 'pruner')


def test_scores_below_zero_have_no_cost(model, images):
    """Nothing of the phase that did not begin is left."""
    pruner = attach(
        model,
        images,
        method=ranking(cost='divide'),
        score=constant(-1.0),
        normalisation='none',
    )
    with pytest.raises(PruningError, match=r"cost='divide': .*below zero"):
        pruner.begin({'flops': 0.5}, 10, end=dict(type='stable', epoch=1))
    assert pruner.phase == Phase.DENSE
    assert pruner.stability is None
    assert pruner.mask.all()
